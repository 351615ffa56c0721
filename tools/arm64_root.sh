#!/usr/bin/env bash
# A small arm64 system for `shrinkc validate --emulate-arm64`: Debian's Python for that processor, with numpy, ncnn and MNN.
# Nothing is installed on this machine: packages are unpacked into FOLDER.  Needs apt (Debian, Ubuntu) and pip.
# usage: arm64_root.sh FOLDER [PIP...]
set -euo pipefail
folder=$(realpath -m "${1:?usage: arm64_root.sh FOLDER [PIP...]}")
pip=("${@:2}")
[ ${#pip[@]} -gt 0 ] || pip=(python3 -m pip)
case ${pip[0]} in */*) pip[0]=$(realpath --no-symlinks "${pip[0]}") ;; esac
constraints=$(realpath "$(dirname "$0")/../constraints-test.txt")
mkdir -p "$folder"/{apt/lists/partial,apt/cache/archives/partial,host,root,wheels}
cd "$folder"
: > apt/status

# Lists and state of our own: what is installed here neither matters nor changes.
foreign() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$folder/apt/lists" \
        -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt/cache" -o APT::Sandbox::User= \
        -o APT::Install-Recommends=false -o Debug::NoLocking=true "$@"
}
foreign update
version=$(apt-cache -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$folder/apt/lists" \
    -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt/cache" depends python3-minimal |
    grep -o 'python3\.[0-9]*-minimal' | head -1)
version=${version%-minimal}
foreign install --yes --download-only "$version-minimal" "lib$version-stdlib" libgomp1 libstdc++6
for package in apt/cache/archives/*.deb; do dpkg-deb --extract "$package" root; done

# The emulator, unpacked, unless there is one.
if ! command -v qemu-aarch64-static > /dev/null && ! command -v qemu-aarch64 > /dev/null; then
    (cd host && apt-get -qq -o APT::Sandbox::User=root download qemu-user-static)
    dpkg-deb --fsys-tarfile host/qemu-user-static_*.deb | tar --extract --to-stdout ./usr/bin/qemu-aarch64-static \
        > host/qemu-aarch64-static
    chmod +x host/qemu-aarch64-static
    rm host/*.deb
fi

"${pip[@]}" download --quiet --no-deps --only-binary=:all: --python-version "${version#python}" --constraint "$constraints" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --dest wheels numpy ncnn MNN
rm -rf site && mkdir site
for wheel in wheels/*.whl; do python3 -m zipfile --extract "$wheel" site; done
echo "$version" > python
rm -rf apt wheels
