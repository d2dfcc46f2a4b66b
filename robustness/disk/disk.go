// Package disk stands between a program and its files. Every call by which the
// program changes files or has them synced is seen before it is done (seccomp's
// user notification), and may be refused, held, or be the program's last. So it
// is known which bytes a loss of power may take: those that were not synced.
// The program is the one that is shipped; it does not know. The same is done with
// its clock, which can jump.
package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kind is what a call does.
type Kind string

// The kinds of calls.
const (
	Write    Kind = "write"
	Truncate Kind = "truncate"
	Sync     Kind = "sync"
	Link     Kind = "link"   // a file gets a second name
	Rename   Kind = "rename" // a file gets another name, in the same folder
	Unlink   Kind = "unlink" // a name of a file goes
)

// kinds are the calls that are watched. What goes to sockets, pipes and logs
// goes by other calls.
var kinds = func() map[int32]Kind {
	k := map[int32]Kind{
		unix.SYS_PWRITE64:  Write,
		unix.SYS_FTRUNCATE: Truncate,
		unix.SYS_FSYNC:     Sync,
		unix.SYS_FDATASYNC: Sync,
		unix.SYS_LINKAT:    Link,
		unix.SYS_RENAMEAT:  Rename,
		unix.SYS_UNLINKAT:  Unlink,
	}
	k[unlink] = Unlink
	return k
}()

// Call is a call that is about to be made.
type Call struct {
	Kind   Kind
	Path   string
	From   string // of a link or a rename: the name the file has already
	Offset int64  // of a write; of a truncation the new size
	Data   []byte
}

// Verdict is what becomes of a call.
type Verdict struct {
	// Refuse is the error that the program gets; 0: the call is done.
	Refuse unix.Errno
	// Kill ends the program before the call is done.
	Kill bool
	// Skip tells the program that the call was done though it was not: the disk
	// lies, or a programmer forgot the call.
	Skip bool
}

// Disk is what is below a folder, for one program after the other.
type Disk struct {
	folder string
	noted  bool   // what is written and synced is noted
	kill   func() // ends the program; nil: its process

	mu    sync.Mutex
	files map[string]*file
	judge func(Call) Verdict
	calls map[Kind]int

	clock atomic.Int64 // by how many nanoseconds the program's clock is wrong
}

// New watches what programs do below a folder, and notes what is synced.
func New(folder string) *Disk {
	return &Disk{folder: folder, noted: true, files: make(map[string]*file), calls: make(map[Kind]int)}
}

// NewGate watches what a program of several processes does below a folder. It
// takes note of nothing, so that power cannot be lost: not all that a database
// does is seen. kill ends all processes.
func NewGate(folder string, kill func()) *Disk {
	return &Disk{folder: folder, kill: kill, calls: make(map[Kind]int)}
}

// Judge has f decide about all further calls; nil lets them be done. f is called
// for one call at a time, and may take its time: the program waits.
func (d *Disk) Judge(f func(Call) Verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.judge = f
}

// Calls is how many calls of a kind there were.
func (d *Disk) Calls(k Kind) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[k]
}

// Start starts cmd. Of what it does to files below the folder nothing passes
// unseen. ended is closed when the program, and all that it started, has ended.
func (d *Disk) Start(cmd *exec.Cmd) (ended <-chan struct{}, err error) {
	return d.started(cmd, func(int) error { return nil })
}

func (d *Disk) started(cmd *exec.Cmd, meanwhile func(pid int) error) (ended <-chan struct{}, err error) {
	listener, err := start(cmd, meanwhile)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(listener)
		for d.serve(listener, cmd.Process) {
		}
	}()
	return done, nil
}

// notification and response are seccomp_notif and seccomp_notif_resp of the
// kernel.
type notification struct {
	id         uint64
	pid, flags uint32
	call       int32
	arch       uint32
	pointer    uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

const (
	ioctlReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	ioctlSend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
)

// serve answers one call. It returns false when the program has ended.
func (d *Disk) serve(listener int, process *os.Process) bool {
	poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, -1); err != nil {
		return errors.Is(err, unix.EINTR)
	}
	if poll[0].Revents&unix.POLLIN == 0 {
		return false
	}
	var n notification
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), ioctlReceive, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return true // the thread that called was killed
	}
	if n.call == unix.SYS_CLOCK_GETTIME {
		r := response{id: n.id}
		if d.tell(n) != nil {
			r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE // the kernel says what is wrong
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), ioctlSend, uintptr(unsafe.Pointer(&r))) // whoever asked may be dead
		return true
	}
	v := d.decide(n)
	if v.Kill {
		if d.kill != nil {
			d.kill()
		} else {
			_ = process.Kill() // it may have ended
		}
		return true // what waits for an answer dies with it
	}
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	switch {
	case v.Refuse != 0:
		r.flags, r.err = 0, -int32(v.Refuse)
	case v.Skip:
		r.flags = 0
		if kinds[n.call] == Write {
			r.value = int64(n.args[2])
		}
	}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), ioctlSend, uintptr(unsafe.Pointer(&r))) // whoever called may be dead
	return true
}

// decide asks the judge about a call and notes what it does.
func (d *Disk) decide(n notification) Verdict {
	c, err := readCall(n)
	if err != nil || c.Path != d.folder && !strings.HasPrefix(c.Path, d.folder+"/") {
		return Verdict{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[c.Kind]++
	if !d.noted {
		return d.verdict(c)
	}
	f := d.file(c.Path)
	v := d.verdict(c)
	if v == (Verdict{}) {
		d.done(f, c)
	}
	return v
}

func (d *Disk) verdict(c Call) Verdict {
	if d.judge == nil {
		return Verdict{}
	}
	return d.judge(c)
}

// readCall finds out what is asked for.
func readCall(n notification) (Call, error) {
	c := Call{Kind: kinds[n.call]}
	var err error
	if c.Kind == Link || c.Kind == Rename {
		if c.From, err = readName(n.pid, n.args[1]); err == nil {
			c.Path, err = readName(n.pid, n.args[3])
		}
		return c, err
	}
	if c.Kind == Unlink {
		c.Path, err = readName(n.pid, n.args[unlinkName(n.call)])
		return c, err
	}
	if c.Path, err = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(n.args[0]))); err != nil {
		return c, err
	}
	switch c.Kind {
	case Truncate:
		c.Offset = int64(n.args[1])
	case Write:
		c.Data, c.Offset = make([]byte, n.args[2]), int64(n.args[3])
		if len(c.Data) == 0 {
			return c, nil
		}
		local := []unix.Iovec{{Base: &c.Data[0], Len: n.args[2]}}
		remote := []unix.RemoteIovec{{Base: uintptr(n.args[1]), Len: int(n.args[2])}}
		read, err := unix.ProcessVMReadv(int(n.pid), local, remote, 0)
		if err != nil || read != len(c.Data) {
			return c, fmt.Errorf("read what is written: %d bytes, %w", read, err)
		}
	}
	return c, nil
}

// readName reads a path that a program passes on; only whole ones are of use.
func readName(pid uint32, at uint64) (string, error) {
	name := make([]byte, unix.PathMax)
	local := []unix.Iovec{{Base: &name[0], Len: unix.PathMax}}
	// A page at a time: what follows the name may not be there.
	var remote []unix.RemoteIovec
	for left := unix.PathMax; left > 0; {
		n := min(left, os.Getpagesize()-int(at)%os.Getpagesize())
		remote = append(remote, unix.RemoteIovec{Base: uintptr(at), Len: n})
		at, left = at+uint64(n), left-n
	}
	n, err := unix.ProcessVMReadv(int(pid), local, remote, 0)
	if err != nil {
		return "", err
	}
	path, _, whole := strings.Cut(string(name[:n]), "\x00")
	if !whole || !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is no whole path", path)
	}
	return path, nil
}

// unlinkName is which argument of a call is the name that goes.
func unlinkName(call int32) int {
	if call == unix.SYS_UNLINKAT {
		return 1
	}
	return 0
}

func (d *Disk) file(path string) *file {
	f := d.files[path]
	if f == nil || f.unlinked {
		f = newFile(path)
		d.files[path] = f
	}
	return f
}

// done notes a call that is done.
func (d *Disk) done(f *file, c Call) {
	switch {
	case c.Kind == Link:
		from := d.file(c.From)
		d.files[c.Path] = &file{durable: from.durable, pending: from.pending}
	case c.Kind == Rename:
		renamed := d.file(c.From)
		delete(d.files, c.From)
		renamed.linked, renamed.replaced = false, f.named()
		d.files[c.Path] = renamed
	case c.Kind == Unlink:
		f.unlinked = true
	case c.Kind != Sync:
		f.pending = append(f.pending, c)
	default:
		f.sync()
		if f.folder { // then its files are found in it from now on
			d.found(c.Path)
		}
	}
}

// found notes that a loss of power leaves the names in a folder, and no others.
func (d *Disk) found(folder string) {
	for path, f := range d.files {
		switch {
		case filepath.Dir(path) != folder:
		case f.unlinked:
			delete(d.files, path)
		default:
			f.linked, f.replaced = true, nil
		}
	}
}
