"""Class names of image sets whose files name them by number, code or folder.

They are those of CLIP's prompts, data/prompts.md of openai/CLIP (MIT) at d05afc4.
"""

import re

_SIGNS = """
red and white circle 20 kph speed limit; red and white circle 30 kph speed limit; red and white
circle 50 kph speed limit; red and white circle 60 kph speed limit; red and white circle 70 kph
speed limit; red and white circle 80 kph speed limit; end / de-restriction of 80 kph speed
limit; red and white circle 100 kph speed limit; red and white circle 120 kph speed limit; red
and white circle red car and black car no passing; red and white circle red truck and black car
no passing; red and white triangle road intersection warning; white and yellow diamond priority
road; red and white upside down triangle yield right-of-way; stop; empty red and white circle;
red and white circle no truck entry; red circle with white horizontal stripe no entry; red and
white triangle with exclamation mark warning; red and white triangle with black left curve
approaching warning; red and white triangle with black right curve approaching warning; red and
white triangle with black double curve approaching warning; red and white triangle rough / bumpy
road warning; red and white triangle car skidding / slipping warning; red and white triangle
with merging / narrow lanes warning; red and white triangle with person digging / construction /
road work warning; red and white triangle with traffic light approaching warning; red and white
triangle with person walking warning; red and white triangle with child and person walking
warning; red and white triangle with bicycle warning; red and white triangle with snowflake /
ice warning; red and white triangle with deer warning; white circle with gray strike bar no
speed limit; blue circle with white right turn arrow mandatory; blue circle with white left turn
arrow mandatory; blue circle with white forward arrow mandatory; blue circle with white forward
or right turn arrow mandatory; blue circle with white forward or left turn arrow mandatory; blue
circle with white keep right arrow mandatory; blue circle with white keep left arrow mandatory;
blue circle with white arrows indicating a traffic circle; white circle with gray strike bar
indicating no passing for cars has ended; white circle with gray strike bar indicating no
passing for trucks has ended
"""
_COUNTRIES = """
AD Andorra; AE United Arab Emirates; AF Afghanistan; AG Antigua and Barbuda; AI Anguilla; AL
Albania; AM Armenia; AO Angola; AQ Antarctica; AR Argentina; AS American Samoa; AT Austria; AU
Australia; AW Aruba; AX Aland Islands; AZ Azerbaijan; BA Bosnia and Herzegovina; BB Barbados; BD
Bangladesh; BE Belgium; BF Burkina Faso; BG Bulgaria; BH Bahrain; BI Burundi; BJ Benin; BL Saint
Barthelemy; BM Bermuda; BN Brunei Darussalam; BO Bolivia; BQ Bonaire, Saint Eustatius and Saba;
BR Brazil; BS Bahamas; BT Bhutan; BV Bouvet Island; BW Botswana; BY Belarus; BZ Belize; CA
Canada; CC Cocos Islands; CD DR Congo; CF Central African Republic; CG Republic of the Congo; CH
Switzerland; CI Cote d'Ivoire; CK Cook Islands; CL Chile; CM Cameroon; CN China; CO Colombia; CR
Costa Rica; CU Cuba; CV Cabo Verde; CW Curacao; CX Christmas Island; CY Cyprus; CZ Czech
Republic; DE Germany; DJ Djibouti; DK Denmark; DM Dominica; DO Dominican Republic; DZ Algeria;
EC Ecuador; EE Estonia; EG Egypt; EH Western Sahara; ER Eritrea; ES Spain; ET Ethiopia; FI
Finland; FJ Fiji; FK Falkland Islands; FM Micronesia; FO Faeroe Islands; FR France; GA Gabon; GB
United Kingdom; GD Grenada; GE Georgia; GF French Guiana; GG Guernsey; GH Ghana; GI Gibraltar;
GL Greenland; GM Gambia; GN Guinea; GP Guadeloupe; GQ Equatorial Guinea; GR Greece; GS South
Georgia and South Sandwich Is.; GT Guatemala; GU Guam; GW Guinea-Bissau; GY Guyana; HK Hong
Kong; HM Heard Island and McDonald Islands; HN Honduras; HR Croatia; HT Haiti; HU Hungary; ID
Indonesia; IE Ireland; IL Israel; IM Isle of Man; IN India; IO British Indian Ocean Territory;
IQ Iraq; IR Iran; IS Iceland; IT Italy; JE Jersey; JM Jamaica; JO Jordan; JP Japan; KE Kenya; KG
Kyrgyz Republic; KH Cambodia; KI Kiribati; KM Comoros; KN St. Kitts and Nevis; KP North Korea;
KR South Korea; KW Kuwait; KY Cayman Islands; KZ Kazakhstan; LA Laos; LB Lebanon; LC St. Lucia;
LI Liechtenstein; LK Sri Lanka; LR Liberia; LS Lesotho; LT Lithuania; LU Luxembourg; LV Latvia;
LY Libya; MA Morocco; MC Monaco; MD Moldova; ME Montenegro; MF Saint-Martin; MG Madagascar; MH
Marshall Islands; MK Macedonia; ML Mali; MM Myanmar; MN Mongolia; MO Macau; MP Northern Mariana
Islands; MQ Martinique; MR Mauritania; MS Montserrat; MT Malta; MU Mauritius; MV Maldives; MW
Malawi; MX Mexico; MY Malaysia; MZ Mozambique; NA Namibia; NC New Caledonia; NE Niger; NF
Norfolk Island; NG Nigeria; NI Nicaragua; NL Netherlands; NO Norway; NP Nepal; NR Nauru; NU
Niue; NZ New Zealand; OM Oman; PA Panama; PE Peru; PF French Polynesia; PG Papua New Guinea; PH
Philippines; PK Pakistan; PL Poland; PM Saint Pierre and Miquelon; PN Pitcairn Islands; PR
Puerto Rico; PS Palestine; PT Portugal; PW Palau; PY Paraguay; QA Qatar; RE Reunion; RO Romania;
RS Serbia; RU Russia; RW Rwanda; SA Saudi Arabia; SB Solomon Islands; SC Seychelles; SD Sudan;
SE Sweden; SG Singapore; SH St. Helena; SI Slovenia; SJ Svalbard and Jan Mayen Islands; SK
Slovakia; SL Sierra Leone; SM San Marino; SN Senegal; SO Somalia; SR Suriname; SS South Sudan;
ST Sao Tome and Principe; SV El Salvador; SX Sint Maarten; SY Syria; SZ Eswatini; TC Turks and
Caicos Islands; TD Chad; TF French Southern Territories; TG Togo; TH Thailand; TJ Tajikistan; TK
Tokelau; TL Timor-Leste; TM Turkmenistan; TN Tunisia; TO Tonga; TR Turkey; TT Trinidad and
Tobago; TV Tuvalu; TW Taiwan; TZ Tanzania; UA Ukraine; UG Uganda; UM U.S. Outlying Islands; US
United States; UY Uruguay; UZ Uzbekistan; VA Vatican; VC Saint Vincent and Grenadines; VE
Venezuela; VG British Virgin Islands; VI United States Virgin Islands; VN Vietnam; VU Vanuatu;
WF Wallis and Futuna; WS Samoa; XK Kosovo; YE Yemen; YT Mayotte; ZA South Africa; ZM Zambia; ZW
Zimbabwe
"""

# German traffic signs in the order of the GTSRB class numbers 0..42, two of them misspelt by CLIP.
_SIGNS = _SIGNS.replace("horizontal", "horizonal").replace("bicycle", "bicyle")  # codespell:ignore
TRAFFIC_SIGNS = [" ".join(name.split()) for name in _SIGNS.split(";")]

# Country names by ISO 3166 two-letter code; those that are not among CLIP's 211 are the English
# names of the Unicode CLDR without accents.
COUNTRIES = {e.split()[0]: " ".join(e.split()[1:]) for e in _COUNTRIES.split(";")}

# Where CLIP's name is not the folder's or torchvision's name in words.
CALTECH = {
    "Faces": "off-center face",
    "Faces_easy": "centered face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "car_side": "side of a car",
    "cougar_body": "body of a cougar cat",
    "cougar_face": "face of a cougar cat",
    "crocodile_head": "head of a crocodile",
    "flamingo_head": "head of a flamingo",
    "snoopy": "snoopy (cartoon beagle)",
    "yin_yang": "yin and yang symbol",
}
EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "highway or road",
    "Industrial": "industrial buildings or commercial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings or homes or apartments",
    "River": "river",
    "SeaLake": "lake or sea",
}
FLOWERS = {
    "globe-flower": "globe flower",
    "pink-yellow dahlia?": "pink and yellow dahlia",
    "ball moss": "air plant",
}
# the nearest vehicle, by class
KITTI_DISTANCES = (
    "a photo i took of a car on my left or right side.",
    "a photo i took with a car nearby.",
    "a photo i took with a car in the distance.",
    "a photo i took with no car.",
)


def readable(name: str) -> str:
    """Class name as words: no underscores, slashes or camel case, white space collapsed.

    >>> readable("PermanentCrop"), readable("apartment_building/outdoor")
    ('Permanent Crop', 'apartment building outdoor')
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_/]+", " ", spaced).split())
