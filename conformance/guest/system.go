package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/cluster/image"
)

//go:embed init.sh
var initScript string

// kernel is the package of a kernel that finds its disk by itself: its drivers for
// NVMe and ext4 are built in, so that the guest needs no initial RAM disk.
const kernel = "linux-image-cloud-amd64"

// programs are packages of what tests and nodes run in the guest.
var programs = []string{
	"apparmor", "bash", "ca-certificates", "conntrack", "coreutils", "curl", "dash", "e2fsprogs", "findutils", "grep", "iproute2", "ipset", "iptables", "iputils-ping",
	"ipvsadm", "kmod", "mount", "nftables", "procps", "runc", "sed", "util-linux",
}

// system is the root folder of the guest, without what a run adds to it. It is made
// once for each set of packages and kept.
type system struct{ root string }

// newSystem returns the system below cache, made if it is not there yet.
func newSystem(cache string) (*system, error) {
	packages := image.Packages{
		Names: append([]string{kernel}, programs...),
		// These make a RAM disk, or set up a boot loader and services.
		Without: []string{"initramfs-tools", "linux-initramfs-tool", "linux-base", "dracut", "systemd", "libpam-runtime", "openssl"},
		Cache:   cache,
	}
	key, err := packages.Key()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(key + prepareScript))
	s := &system{root: filepath.Join(cache, "guest", fmt.Sprintf("system-%x", sum[:8]))}
	if _, err := os.Stat(s.root); err == nil {
		return s, nil
	}
	if err := removeAll(filepath.Join(cache, "guest", "system-*")); err != nil {
		return nil, err
	}
	unfinished := s.root + ".new"
	if err := os.MkdirAll(unfinished, 0o755); err != nil {
		return nil, err
	}
	if err := packages.Write(unfinished); err != nil {
		return nil, err
	}
	if err := prepare(unfinished); err != nil {
		return nil, err
	}
	return s, os.Rename(unfinished, s.root)
}

// removeAll removes what a pattern matches: what older versions of this command have left in the cache.
func removeAll(pattern string) error {
	found, err := filepath.Glob(pattern)
	for _, path := range found {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// prepareScript does what scripts of packages would have done.
const prepareScript = `set -e
mkdir -p proc sys dev run tmp root var/lib var/log
chroot . /sbin/depmod "$(ls lib/modules)"
for program in iptables ip6tables; do
	for suffix in "" -save -restore; do ln -sf xtables-nft-multi usr/sbin/$program$suffix; done
done
ln -sf dash bin/sh
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' > etc/group
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 guest\n' > etc/hosts
: > etc/fstab
echo nameserver 192.0.2.1 > etc/resolv.conf # there is no network; CoreDNS does not start without a name
mkdir -p usr/share/zoneinfo etc/ssl/certs
cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt
`

func prepare(root string) error {
	script := exec.Command("sh", "-c", prepareScript)
	script.Dir = root

	if out, err := script.CombinedOutput(); err != nil {
		return fmt.Errorf("set up the packages: %w: %s", err, out)
	}
	// The kernel opens the console before anything is mounted.
	console := filepath.Join(root, "dev/console")
	if err := unix.Mknod(console, unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1))); err != nil {
		return fmt.Errorf("make %s: %w", console, err)
	}
	return nil
}

// kernel is the file of the distribution's kernel.
func (s *system) kernel() (string, error) {
	found, err := filepath.Glob(filepath.Join(s.root, "boot/vmlinuz-*"))
	if err != nil || len(found) == 0 {
		return "", errors.Join(err, errors.New("the guest's system has no kernel"))
	}
	return found[0], nil
}

// copy makes a root folder of the guest for one run, whose files are those of the
// system.
func (s *system) copy(ctx context.Context, to string) error {
	if err := command(ctx, "", "cp", "-a", s.root, to); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "init"), []byte(initScript), 0o755)
}

// makeDisk makes a file system with the contents of a folder.
func makeDisk(ctx context.Context, root, disk, size string) error {
	return command(ctx, "", "mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", root, disk, size)
}

// fetch copies files out of a disk that no machine uses any more. Their folders may be in the
// journal alone, which e2fsck plays back; it ends with 1 if it has.
func fetch(disk string, files pairs) error {
	if len(files) == 0 {
		return nil
	}
	var errs []error
	if out, err := exec.Command("e2fsck", "-f", "-y", disk).CombinedOutput(); err != nil {
		if ended := new(exec.ExitError); !errors.As(err, &ended) || ended.ExitCode() != 1 {
			errs = append(errs, fmt.Errorf("repair the guest's disk: %w: %s", err, out))
		}
	}
	for _, f := range files {
		// debugfs ends with 0 whatever happens.
		out, _ := exec.Command("debugfs", "-R", fmt.Sprintf("dump %s %s", f[0], f[1]), disk).CombinedOutput()
		if _, err := os.Stat(f[1]); err != nil {
			errs = append(errs, fmt.Errorf("fetch %s: %w: %s", f[0], err, out))
		}
	}
	return errors.Join(errs...)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
