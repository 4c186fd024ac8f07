"""Images with texts: several captions per image, bundled drawings, webdataset shards."""
