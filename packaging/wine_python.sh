#!/bin/bash
# A Windows Python 3.11.9 under Wine, to build and try the executables on Debian or Ubuntu: bash packaging/wine_python.sh
# It goes into $WINPY_HOME (default /opt/winpy-wine, 2 GB) and comes from Debian's packages and PyPI only: the official
# python311.dll and extension modules are in the wheel of panda3d, Microsoft's runtime in msvc-runtime, and the rest of
# the standard library is that of a CPython 3.11 of this machine (another place of it: STDLIB=FOLDER).
set -euo pipefail
DEST=$(realpath -m "${WINPY_HOME:-/opt/winpy-wine}")
SHIM=$(mktemp -d)
trap 'rm -rf "$SHIM"' EXIT
mkdir -p "$DEST/dl" "$DEST/x"
cd "$DEST"

if ! [ -x /usr/lib/wine/wine64 ] || ! command -v x86_64-w64-mingw32-gcc >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        wine wine64 libwine fonts-wine xvfb xauth unzip gcc-mingw-w64-x86-64-posix binutils-mingw-w64-x86-64
fi

standard_library() { # of a CPython 3.11, with the parts for Windows
    local name
    for name in python3.11 python3; do
        "$name" -c 'import os, sys; sys.version_info[:2] == (3, 11) and print(os.path.dirname(os.__file__))' 2>/dev/null || true
    done | head -1
}
STDLIB=${STDLIB:-$(standard_library)}
if ! [ -f "$STDLIB/asyncio/windows_events.py" ]; then
    echo "No standard library of CPython 3.11 was found: install python3.11, or set STDLIB to the folder of one." >&2
    exit 1
fi

python3 -m pip download -q --no-deps --only-binary=:all: --platform win_amd64 --python-version 3.11 \
    --implementation cp --abi cp311 --abi none -d dl panda3d==1.10.16 msvc-runtime==14.44.35112 pip==26.3
unzip -qo 'dl/panda3d-*.whl' 'deploy_libs/*' -d x
unzip -qo 'dl/msvc_runtime-*.whl' -d x/msvc
echo "0817a2a657a24c0d5fbb60df56960f42fc66b3039d522ec952dab83e2d869364  x/deploy_libs/python311.dll" | sha256sum -c -

rm -rf winpy
mkdir -p winpy/DLLs winpy/Lib/site-packages
cp x/deploy_libs/python311.dll winpy/
cp x/deploy_libs/*.pyd x/deploy_libs/lib{crypto-3,ssl-3,ffi-8}.dll x/deploy_libs/sqlite3.dll winpy/DLLs/
rm -f winpy/DLLs/_tkinter.pyd # its scripts are not there
cp x/msvc/*.data/data/Scripts/{vcruntime140,vcruntime140_1,msvcp140}.dll winpy/
tar -C "$STDLIB" --exclude=./lib-dynload --exclude=./site-packages --exclude='./config-*' --exclude='./_sysconfigdata*' \
    --exclude=__pycache__ --exclude=./test --exclude=./idlelib --exclude=./turtledemo -cf - . | tar -C winpy/Lib -xf -
unzip -qo 'dl/pip-*.whl' -d winpy/Lib/site-packages

# The one thing that the wheel lacks is python.exe.
cat >"$SHIM/python.c" <<'C'
#include <wchar.h>
__declspec(dllimport) int Py_Main(int argc, wchar_t **argv);
int wmain(int argc, wchar_t **argv) { return Py_Main(argc, argv); }
C
cat >"$SHIM/python.manifest" <<'C'
<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<assembly xmlns="urn:schemas-microsoft-com:asm.v1" manifestVersion="1.0">
 <compatibility xmlns="urn:schemas-microsoft-com:compatibility.v1"><application>
  <supportedOS Id="{8e0f7a12-bfb3-4fe8-b9a5-48fd50a15a9a}"/>
 </application></compatibility>
</assembly>
C
(
    cd "$SHIM"
    echo '1 24 "python.manifest"' >python.rc
    x86_64-w64-mingw32-windres python.rc -O coff -o python.res
    x86_64-w64-mingw32-gcc -municode -O2 -s python.c python.res "$DEST/winpy/python311.dll" -o "$DEST/winpy/python.exe"
)

export WINEPREFIX="$DEST/pfx" WINEARCH=win64 WINEDEBUG=-all
export WINEDLLOVERRIDES="mscoree,mshtml,winemenubuilder.exe=;vcruntime140,vcruntime140_1,msvcp140=n,b"
if ! [ -d pfx ]; then
    timeout 300 xvfb-run -a /usr/lib/wine/wine64 wineboot -i >/dev/null 2>&1 </dev/null || true
    timeout 60 /usr/lib/wine/wine64 winecfg -v win10 >/dev/null 2>&1 </dev/null
    timeout 60 /usr/lib/wine/wineserver -w || true
fi
rm -f installed-aibot.txt
timeout 120 /usr/lib/wine/wine64 winpy/python.exe -c 'import sqlite3, ssl, sys; print(sys.version)' </dev/null | cat
/usr/lib/wine/wineserver -k || true
echo "Made: $DEST. Now: python run.py build, python run.py windows-test"
