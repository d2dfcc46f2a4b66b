package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/skiff-k8s/skiff/cluster/image"
)

// umlConfig is the configuration of the kernel: all options that are on, but for
// those that they imply.
//
//go:embed uml.config
var umlConfig string

// umlSource is the package with the sources of the kernel.
const umlSource = "linux-source-6.12"

// uml is User Mode Linux: a kernel that is a program of this machine, and runs the
// guest's programs as processes of it. It has one processor.
type uml struct{ kernel string }

func (u uml) command(disk string, memory int) (string, []string) {
	return "env", []string{
		// The C library has the kernel watch an area of each process (rseq), which it inherits, but does not have.
		"GLIBC_TUNABLES=glibc.pthread.rseq=0", u.kernel,
		"mem=" + strconv.Itoa(memory) + "M", "ubd0=" + disk, "root=/dev/ubda", "rw", "init=/init", "panic=-1", "quiet", "loglevel=4",
		"con=null", "con0=null,fd:1", "ssl=null", "ssl1=null,fd:3", "ssl2=null,fd:4",
	}
}

func (uml) speed() string {
	return "by User Mode Linux: one processor as fast as this machine's, slow system calls"
}

// newUML returns the kernel below cache, built if it is not there yet.
func newUML(ctx context.Context, cache string) (uml, error) {
	packages := image.Packages{
		Names:   []string{umlSource},
		Without: []string{"binutils", "bzip2", "coreutils", "xz-utils"}, // those of this machine unpack it
		Cache:   cache,
	}
	key, err := packages.Key()
	if err != nil {
		return uml{}, err
	}
	sum := sha256.Sum256([]byte(key + umlConfig + umlScript))
	built := uml{kernel: filepath.Join(cache, "guest", fmt.Sprintf("linux-%x", sum[:8]))}
	if _, err := os.Stat(built.kernel); err == nil {
		return built, nil
	}
	if err := removeAll(filepath.Join(cache, "guest", "linux-*")); err != nil {
		return uml{}, err
	}
	dir, err := os.MkdirTemp("", "skiff-guest-linux-")
	if err != nil {
		return uml{}, err
	}
	defer os.RemoveAll(dir)
	fmt.Println("guest: building the kernel, which takes a few minutes, once")
	if err := packages.Write(dir); err != nil {
		return uml{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(umlConfig), 0o644); err != nil {
		return uml{}, err
	}
	return built, command(ctx, dir, "sh", "-c", umlScript, "sh", umlSource, strconv.Itoa(runtime.NumCPU()), built.kernel)
}

// umlScript unpacks the sources $1 in a folder that has the configuration, builds them with
// $2 jobs, and moves what comes of it to $3. Options that the sources do not know, or that lack
// another one, end it.
const umlScript = `set -e
tar -xJf usr/src/$1.tar.xz
rm usr/src/$1.tar.xz
cd $1
make -s ARCH=um KCONFIG_ALLCONFIG=../config allnoconfig
grep =y ../config | while read -r option; do
	grep -qx "$option" .config || { echo "not taken: $option"; exit 1; }
done
make -s ARCH=um -j$2 linux
strip -o ../linux linux
mkdir -p "$(dirname "$3")"
cp ../linux "$3.new"
mv "$3.new" "$3"
`
