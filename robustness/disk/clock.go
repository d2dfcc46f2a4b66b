package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Jump sets the clock of programs that are started from then on by
// StartWithClock, and of the one that is running, to the time that it is, moved.
// Their monotonic clocks go on, as those of a machine do.
func (d *Disk) Jump(by time.Duration) { d.clock.Store(int64(by)) }

// StartWithClock is Start of a program whose clock can Jump. Programs read the
// clock from memory that the kernel shares with them (vDSO), where nobody can stand
// between: so it is hidden from this one, which makes a call instead.
func (d *Disk) StartWithClock(cmd *exec.Cmd) (ended <-chan struct{}, err error) {
	// Who traces is a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Ptrace = true
	return d.started(cmd, hideShared)
}

// tell answers a program that asks for the time.
func (d *Disk) tell(n notification) error {
	now := unix.NsecToTimespec(time.Now().Add(time.Duration(d.clock.Load())).UnixNano())
	size := int(unsafe.Sizeof(now))
	local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(&now)), Len: uint64(size)}}
	remote := []unix.RemoteIovec{{Base: uintptr(n.args[1]), Len: size}}
	_, err := unix.ProcessVMWritev(int(n.pid), local, remote, 0)
	return err
}

// hideShared lets a child that is traced go on until it has become the program to
// be watched, takes the address of the shared memory out of what the kernel tells
// it, and lets it go.
func hideShared(pid int) error {
	var status unix.WaitStatus
	stopped := func() error {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			return err
		}
		if !status.Stopped() {
			return errors.New("it ended")
		}
		return nil
	}
	if err := stopped(); err != nil { // it has become this program
		return err
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXEC|unix.PTRACE_O_EXITKILL); err != nil {
		return err
	}
	for signal := 0; status.TrapCause() != unix.PTRACE_EVENT_EXEC; {
		if err := unix.PtraceCont(pid, signal); err != nil {
			return err
		}
		if err := stopped(); err != nil {
			return err
		}
		if signal = int(status.StopSignal()); signal == int(unix.SIGTRAP) {
			signal = 0
		}
	}
	err := ignoreShared(pid)
	return errors.Join(err, unix.PtraceDetach(pid))
}

// What the kernel tells a program about itself (auxv): pairs of a type and a
// value, after its arguments and its environment.
const (
	auxEnd    = 0
	auxIgnore = 1
	auxShared = 33 // AT_SYSINFO_EHDR
)

func ignoreShared(pid int) error {
	at, err := stack(pid)
	if err != nil {
		return err
	}
	word := func() (uint64, error) {
		var b [8]byte
		_, err := unix.PtracePeekData(pid, at, b[:])
		at += 8
		return binary.LittleEndian.Uint64(b[:]), err
	}
	if _, err := word(); err != nil { // how many arguments
		return err
	}
	for ends := 0; ends < 2; {
		pointer, err := word()
		if err != nil {
			return err
		}
		if pointer == 0 {
			ends++
		}
	}
	for {
		kind, err := word()
		switch {
		case err != nil:
			return err
		case kind == auxEnd:
			return errors.New("the kernel shares no clock")
		case kind == auxShared:
			var ignore [8]byte
			binary.LittleEndian.PutUint64(ignore[:], auxIgnore)
			_, err := unix.PtracePokeData(pid, at-8, ignore[:])
			return err
		}
		at += 8
	}
}

// stack is the stack pointer of a program that is stopped.
func stack(pid int) (uintptr, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(line))
	if len(fields) < 3 {
		return 0, fmt.Errorf("process %d does %q", pid, line)
	}
	var at uintptr
	_, err = fmt.Sscanf(fields[len(fields)-2], "0x%x", &at)
	return at, err
}
