#!/bin/sh
# Makes plot_sans.ttf, the font of the PNG figures: a subset of Arimo Regular 1.33 without hints,
# renamed as the Open Font License advises for changed versions. Needs fonttools 4.68.0.
#   make_subset.sh Arimo-Regular.ttf
# Arimo-Regular.ttf is from the Debian package fonts-croscore 20201225-1,
# sha256 5c315974260455a02fad62495a0ae9a783bb53f0eccf807deb75c7967e7a81d6.
set -eu
folder=$(dirname "$0")
# Latin, Latin-1, Latin Extended-A, Greek, punctuation, superscripts, subscripts, arrows, operators.
SOURCE_DATE_EPOCH=0 pyftsubset "$1" --output-file="$folder/plot_sans.ttf" \
  --unicodes='20-7e,a0-ff,100-17f,391-3a9,3b1-3c9,2010-2015,2018-201e,2022,2026,2030,2032,2033,2070-208e,20ac,2122,2190-2193,2202,2206,2211,2212,221a,221e,2248,2260,2264,2265' \
  --no-hinting --desubroutinize --layout-features='' --name-IDs='0,1,2,13,14' --notdef-outline \
  --drop-tables+=DSIG,GPOS,GSUB,GDEF,kern,FFTM,gasp,meta,OS/2,post
python3 - "$folder/plot_sans.ttf" <<'PY'
import sys
from fontTools.ttLib import TTFont
font = TTFont(sys.argv[1], recalcTimestamp=False)
font["name"].setName("Plot Sans", 1, 3, 1, 0x409)
font["name"].names = [n for n in font["name"].names if n.platformID == 3]
font.save(sys.argv[1])
PY
