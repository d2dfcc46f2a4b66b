package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confineVariable tells this program, started anew, to become another one whose
// calls are watched; the socket for the listener is its file descriptor 3.
const confineVariable = "SKIFF_ROBUSTNESS_CONFINE"

// Confine must be called first in a program that uses Start: where Start has
// started it, it becomes the program to be watched and does not return.
func Confine() {
	program := os.Getenv(confineVariable)
	if program == "" {
		return
	}
	if err := confine(program); err != nil {
		fmt.Fprintln(os.Stderr, "watch the calls of", program+":", err)
		os.Exit(126)
	}
}

func confine(program string) error {
	runtime.LockOSThread() // the filter is this thread's, and becomes the program's
	listener, err := listen()
	if err != nil {
		return err
	}
	const socket = 3
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	if err := errors.Join(unix.Close(listener), unix.Close(socket)); err != nil {
		return err
	}
	var environment []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, confineVariable+"=") {
			environment = append(environment, v)
		}
	}
	return syscall.Exec(program, append([]string{program}, os.Args[1:]...), environment)
}

// listen makes the calls of this thread that change files wait for a listener,
// and returns it.
func listen() (int, error) {
	arch, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return 0, fmt.Errorf("not on %s", runtime.GOARCH)
	}
	// The data of a filter: the number of the call at 0, the architecture at 4, the
	// arguments from 16 on.
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	give := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	notify := give(unix.SECCOMP_RET_USER_NOTIF)
	program := []unix.SockFilter{load(4), unless(arch, uint8(2*len(kinds)+5)), load(0)}
	for call := range kinds {
		program = append(program, unless(uint32(call), 1), notify)
	}
	// Of clocks the one that can jump is watched: the first argument, at 16.
	program = append(program, unless(unix.SYS_CLOCK_GETTIME, 3), load(16), unless(unix.CLOCK_REALTIME, 1), notify)
	program = append(program, give(unix.SECCOMP_RET_ALLOW))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return 0, fmt.Errorf("seccomp: %w", errno)
	}
	return int(listener), nil
}

// start starts cmd with its calls watched and returns the listener. meanwhile is
// done until it is the program that it is to be.
func start(cmd *exec.Cmd, meanwhile func(pid int) error) (listener int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "listener"), os.NewFile(uintptr(pair[1]), "listener")
	defer ours.Close()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, confineVariable+"="+cmd.Path)
	// The child is this program already, which another user may have no path to.
	cmd.Path, cmd.ExtraFiles = "/proc/self/exe", []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, err
	}
	if err = meanwhile(cmd.Process.Pid); err == nil {
		listener, err = receive(pair[0])
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return 0, errors.Join(err, cmd.Wait())
	}
	return listener, nil
}

// receive takes a file descriptor from a socket.
func receive(socket int) (int, error) {
	rights := make([]byte, unix.CmsgSpace(4))
	n, oob, _, _, err := unix.Recvmsg(socket, make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return 0, errors.Join(errors.New("the program did not start"), err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oob])
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return 0, errors.New("the program handed over no listener")
}
