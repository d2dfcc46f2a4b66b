package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// machine is a virtual machine with two processors.
type machine struct {
	kernel, disk string
	memory       int // MiB
	dir          string
}

// run boots the machine, writes to out what its programs print, and fails as they
// do. The first serial port is the kernel's console, which is shown if the programs
// never end; the second is what they print; the third is their status.
func (m machine) run(ctx context.Context, timeout time.Duration, out io.Writer) error {
	if m.kernel == "" {
		return errors.New("the guest's system has no kernel")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	console, status := filepath.Join(m.dir, "console"), filepath.Join(m.dir, "status")
	accelerator, speed := m.accelerator()
	fmt.Fprintln(out, "guest:", speed)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(m.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot",
		"-drive", "file="+m.disk+",format=raw,if=none,id=disk,cache=unsafe", "-device", "nvme,drive=disk,serial=disk",
		"-serial", "file:"+console, "-serial", "stdio", "-serial", "file:"+status,
		"-kernel", m.kernel, "-append", "root=/dev/nvme0n1 rw init=/init console=ttyS0 panic=-1 quiet loglevel=4 apparmor=1 security=apparmor")
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &complaints
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	failed := cmd.Run()
	fmt.Fprintf(out, "guest: off after %.1f s\n", time.Since(began).Seconds())
	said, err := os.ReadFile(status)
	if code, parsed := strconv.Atoi(strings.TrimSpace(string(said))); err == nil && parsed == nil {
		if code != 0 {
			return fmt.Errorf("the guest's programs ended with status %d", code)
		}
		return nil
	}
	last, _ := os.ReadFile(console)
	return fmt.Errorf("the guest's programs did not end (%w)\n%s\n%s", cause(ctx.Err(), failed), complaints.String(), tail(last))
}

// cause is the first error there is.
func cause(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return errors.New("it went off by itself")
}

func tail(text []byte) []byte { return text[max(0, len(text)-4096):] }

// accelerator is what runs the guest's instructions, and what to say of it. A
// processor without extensions for virtual machines may still have /dev/kvm, but
// for kernels made for it alone.
func (machine) accelerator() (name, speed string) {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err == nil && regexp.MustCompile(`(?m)^flags\s*:.* (vmx|svm)( |$)`).Match(cpu) {
		if device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
			device.Close()
			return "kvm", "by KVM"
		}
	}
	return "tcg,thread=multi", "by emulation, several times slower than this machine: no KVM here"
}
