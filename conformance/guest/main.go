// Command guest runs tests inside a virtual machine that has the kernel of the
// distribution. That kernel has what the one of this machine may lack: IPVS, dummy
// interfaces, SCTP, WireGuard, cgroup v2, AppArmor.
//
// The guest is made of Debian packages, has no network, and lives as long as its
// tests. It runs as root with the test programs of the named packages, one after the
// other; this command prints what they print and fails if one of them does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type settings struct {
	cache     string
	machine   string // qemu or uml
	arguments string // of each test program
	command   string // instead of tests
	files     pairs
	fetch     pairs
	memory    int // MiB
	disk      string
	timeout   time.Duration
	packages  []string
}

// pairs are values of a flag that is given once for each, as FROM:TO.
type pairs [][2]string

func (p *pairs) String() string { return fmt.Sprint(*p) }

// Set implements flag.Value.
func (p *pairs) Set(value string) error {
	from, to, ok := strings.Cut(value, ":")
	if !ok || from == "" || to == "" {
		return fmt.Errorf("%q is not FROM:TO", value)
	}
	*p = append(*p, [2]string{from, to})
	return nil
}

func main() {
	var s settings
	flag.StringVar(&s.cache, "cache", filepath.Join(os.Getenv("HOME"), ".cache/skiff"), "folder for packages and the guest's system")
	flag.StringVar(&s.machine, "machine", "qemu", "what runs the guest: qemu, with the kernel of the distribution, or uml, User Mode Linux")
	flag.StringVar(&s.arguments, "arguments", "-test.v", "what each test program is called with, for the guest's shell")
	flag.StringVar(&s.command, "command", "", "what the guest's shell runs in /guest instead of tests")
	flag.Var(&s.files, "file", "a file or folder for the guest, as FROM:TO; may be given more than once")
	flag.Var(&s.fetch, "fetch", "a file of the guest to copy out at the end, as FROM:TO; may be given more than once")
	flag.IntVar(&s.memory, "memory", 4096, "memory of the guest, in MiB")
	flag.StringVar(&s.disk, "disk", "4G", "size of the guest's disk, which takes only as much room as is written to it")
	flag.DurationVar(&s.timeout, "timeout", 30*time.Minute, "how long the guest may run")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "guest [flags] PACKAGE…")
		flag.PrintDefaults()
	}
	flag.Parse()
	s.packages = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	if (s.command == "") == (len(s.packages) == 0) {
		return errors.New("give either packages or a command")
	}
	dir, err := os.MkdirTemp("", "skiff-guest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	system, err := newSystem(s.cache)
	if err != nil {
		return fmt.Errorf("make the guest's system: %w", err)
	}
	m, err := s.newMachine(ctx, system)
	if err != nil {
		return fmt.Errorf("make the guest's machine: %w", err)
	}
	root := filepath.Join(dir, "root")
	if err := system.copy(ctx, root); err != nil {
		return fmt.Errorf("copy the guest's system: %w", err)
	}
	if err := load(ctx, s, root); err != nil {
		return err
	}
	disk := filepath.Join(dir, "disk")
	if err := makeDisk(ctx, root, disk, s.disk); err != nil {
		return fmt.Errorf("make the guest's disk: %w", err)
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	fmt.Printf("guest: made in %.1f s\n", time.Since(began).Seconds())
	failed := boot(ctx, m, s, dir, disk, os.Stdout)
	return errors.Join(failed, fetch(disk, s.fetch))
}

func (s settings) newMachine(ctx context.Context, system *system) (machine, error) {
	switch s.machine {
	case "qemu":
		kernel, err := system.kernel()
		return qemu{kernel: kernel}, err
	case "uml":
		return newUML(ctx, s.cache)
	}
	return nil, fmt.Errorf("there is no machine %q; there are qemu and uml", s.machine)
}
