"""Long offline stages that map rows to rows; they can be killed, resumed and split."""
