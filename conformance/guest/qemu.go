package main

import (
	"os"
	"regexp"
	"strconv"
)

// qemu is a virtual machine with two processors.
type qemu struct{ kernel string }

func (q qemu) command(disk string, memory int) (string, []string) {
	accelerator, _ := accelerator()
	return "qemu-system-x86_64", []string{
		"-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot",
		"-drive", "file=" + disk + ",format=raw,if=none,id=disk,cache=unsafe", "-device", "nvme,drive=disk,serial=disk",
		"-serial", "file:/dev/fd/1", "-serial", "file:/dev/fd/3", "-serial", "file:/dev/fd/4",
		"-kernel", q.kernel, "-append", "root=/dev/nvme0n1 rw init=/init console=ttyS0 panic=-1 quiet loglevel=4 apparmor=1 security=apparmor",
	}
}

func (qemu) speed() string {
	_, speed := accelerator()
	return speed
}

// accelerator is what runs the guest's instructions, and what to say of it. A
// processor without extensions for virtual machines may still have /dev/kvm, but
// for kernels made for it alone.
func accelerator() (name, speed string) {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err == nil && regexp.MustCompile(`(?m)^flags\s*:.* (vmx|svm)( |$)`).Match(cpu) {
		if device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
			device.Close()
			return "kvm", "by KVM"
		}
	}
	return "tcg,thread=multi", "by emulation, several times slower than this machine: no KVM here"
}
