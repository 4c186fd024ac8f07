"""Readable class names of image sets whose files name them by number, code or folder."""

import re

_SIGNS = """
speed limit 20 km/h; speed limit 30 km/h; speed limit 50 km/h; speed limit 60 km/h; speed limit
70 km/h; speed limit 80 km/h; end of speed limit 80 km/h; speed limit 100 km/h; speed limit 120
km/h; no overtaking; no overtaking by trucks; priority at next intersection; priority road; give
way; stop; no vehicles; no trucks; no entry; general danger; dangerous curve to the left;
dangerous curve to the right; double curve; bumpy road; slippery road; road narrows on the
right; road works; traffic lights ahead; pedestrians; children crossing; bicycles crossing; ice
or snow; wild animals crossing; end of all restrictions; turn right ahead; turn left ahead;
ahead only; go straight or turn right; go straight or turn left; keep right; keep left;
roundabout; end of no overtaking; end of no overtaking by trucks
"""
_COUNTRIES = """
AD Andorra; AE United Arab Emirates; AF Afghanistan; AG Antigua and Barbuda; AI Anguilla; AL
Albania; AM Armenia; AO Angola; AQ Antarctica; AR Argentina; AS American Samoa; AT Austria; AU
Australia; AW Aruba; AX Aland Islands; AZ Azerbaijan; BA Bosnia and Herzegovina; BB Barbados; BD
Bangladesh; BE Belgium; BF Burkina Faso; BG Bulgaria; BH Bahrain; BI Burundi; BJ Benin; BL Saint
Barthelemy; BM Bermuda; BN Brunei; BO Bolivia; BQ Caribbean Netherlands; BR Brazil; BS Bahamas;
BT Bhutan; BV Bouvet Island; BW Botswana; BY Belarus; BZ Belize; CA Canada; CC Cocos Islands; CD
Democratic Republic of the Congo; CF Central African Republic; CG Republic of the Congo; CH
Switzerland; CI Cote d'Ivoire; CK Cook Islands; CL Chile; CM Cameroon; CN China; CO Colombia; CR
Costa Rica; CU Cuba; CV Cape Verde; CW Curacao; CX Christmas Island; CY Cyprus; CZ Czechia; DE
Germany; DJ Djibouti; DK Denmark; DM Dominica; DO Dominican Republic; DZ Algeria; EC Ecuador; EE
Estonia; EG Egypt; EH Western Sahara; ER Eritrea; ES Spain; ET Ethiopia; FI Finland; FJ Fiji; FK
Falkland Islands; FM Micronesia; FO Faroe Islands; FR France; GA Gabon; GB United Kingdom; GD
Grenada; GE Georgia; GF French Guiana; GG Guernsey; GH Ghana; GI Gibraltar; GL Greenland; GM
Gambia; GN Guinea; GP Guadeloupe; GQ Equatorial Guinea; GR Greece; GS South Georgia and South
Sandwich Islands; GT Guatemala; GU Guam; GW Guinea-Bissau; GY Guyana; HK Hong Kong; HM Heard
Island and McDonald Islands; HN Honduras; HR Croatia; HT Haiti; HU Hungary; ID Indonesia; IE
Ireland; IL Israel; IM Isle of Man; IN India; IO British Indian Ocean Territory; IQ Iraq; IR
Iran; IS Iceland; IT Italy; JE Jersey; JM Jamaica; JO Jordan; JP Japan; KE Kenya; KG Kyrgyzstan;
KH Cambodia; KI Kiribati; KM Comoros; KN Saint Kitts and Nevis; KP North Korea; KR South Korea;
KW Kuwait; KY Cayman Islands; KZ Kazakhstan; LA Laos; LB Lebanon; LC Saint Lucia; LI
Liechtenstein; LK Sri Lanka; LR Liberia; LS Lesotho; LT Lithuania; LU Luxembourg; LV Latvia; LY
Libya; MA Morocco; MC Monaco; MD Moldova; ME Montenegro; MF Saint Martin; MG Madagascar; MH
Marshall Islands; MK North Macedonia; ML Mali; MM Myanmar; MN Mongolia; MO Macao; MP Northern
Mariana Islands; MQ Martinique; MR Mauritania; MS Montserrat; MT Malta; MU Mauritius; MV
Maldives; MW Malawi; MX Mexico; MY Malaysia; MZ Mozambique; NA Namibia; NC New Caledonia; NE
Niger; NF Norfolk Island; NG Nigeria; NI Nicaragua; NL Netherlands; NO Norway; NP Nepal; NR
Nauru; NU Niue; NZ New Zealand; OM Oman; PA Panama; PE Peru; PF French Polynesia; PG Papua New
Guinea; PH Philippines; PK Pakistan; PL Poland; PM Saint Pierre and Miquelon; PN Pitcairn
Islands; PR Puerto Rico; PS Palestinian Territories; PT Portugal; PW Palau; PY Paraguay; QA
Qatar; RE Reunion; RO Romania; RS Serbia; RU Russia; RW Rwanda; SA Saudi Arabia; SB Solomon
Islands; SC Seychelles; SD Sudan; SE Sweden; SG Singapore; SH Saint Helena; SI Slovenia; SJ
Svalbard and Jan Mayen; SK Slovakia; SL Sierra Leone; SM San Marino; SN Senegal; SO Somalia; SR
Suriname; SS South Sudan; ST Sao Tome and Principe; SV El Salvador; SX Sint Maarten; SY Syria;
SZ Eswatini; TC Turks and Caicos Islands; TD Chad; TF French Southern Territories; TG Togo; TH
Thailand; TJ Tajikistan; TK Tokelau; TL Timor- Leste; TM Turkmenistan; TN Tunisia; TO Tonga; TR
Turkey; TT Trinidad and Tobago; TV Tuvalu; TW Taiwan; TZ Tanzania; UA Ukraine; UG Uganda; UM
U.S. Outlying Islands; US United States; UY Uruguay; UZ Uzbekistan; VA Vatican City; VC Saint
Vincent and Grenadines; VE Venezuela; VG British Virgin Islands; VI U.S. Virgin Islands; VN
Vietnam; VU Vanuatu; WF Wallis and Futuna; WS Samoa; XK Kosovo; YE Yemen; YT Mayotte; ZA South
Africa; ZM Zambia; ZW Zimbabwe
"""

# German traffic signs in the order of the GTSRB class numbers 0..42.
TRAFFIC_SIGNS = [" ".join(name.split()) for name in _SIGNS.split(";")]

# Country names by ISO 3166 two-letter code; English names of the Unicode CLDR without accents.
COUNTRIES = {e.split()[0]: " ".join(e.split()[1:]) for e in _COUNTRIES.split(";")}


def readable(name: str) -> str:
    """Class name as words: no underscores, slashes or camel case, white space collapsed.

    >>> readable("PermanentCrop"), readable("apartment_building/outdoor")
    ('Permanent Crop', 'apartment building outdoor')
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_/]+", " ", spaced).split())
