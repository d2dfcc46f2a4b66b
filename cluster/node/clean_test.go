package node

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestRemoveMounted removes a folder in which the first look misses a mount.
func TestRemoveMounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	point := filepath.Join(dir, "rootfs")
	check(t, os.MkdirAll(point, 0o755))
	check(t, unix.Mount("none", point, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	looks := 0
	err := removeMounted(dir, func() error {
		if looks++; looks == 1 {
			return nil
		}
		return unmountBelow(dir)
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestMountsOfAFolder(t *testing.T) {
	list := parseMounts(`1 0 254:0 / / rw - ext4 /dev/vda rw
2 1 0:4 net:[1] /data/skiff/netns/a rw - nsfs nsfs rw
3 1 0:9 / /data/skiff/run/a\040b rw - tmpfs tmpfs rw
4 1 254:0 /data /mnt rw - ext4 /dev/vda rw
5 4 0:4 net:[1] /mnt/skiff/netns/a rw - nsfs nsfs rw
6 4 0:9 / /mnt/skiff/run/a\040b rw - tmpfs tmpfs rw
7 1 0:4 net:[2] /mnt/skiff/netns/b rw - nsfs nsfs rw
8 1 0:4 net:[1] /run/netns/other rw - nsfs nsfs rw
9 1 0:4 net:[3] /data/skiff2/netns/a rw - nsfs nsfs rw
10 1 0:9 / /data/skiff rw - tmpfs tmpfs rw
`)
	got := ofFolder(list, "/data/skiff")
	want := []string{"/mnt/skiff/run/a b", "/mnt/skiff/netns/a", "/data/skiff/run/a b", "/data/skiff/netns/a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// ofThreads is set for a process of this test whose first thread ends before the others.
const ofThreads = "SKIFF_TEST_OF_THREADS"

// Variables are initialized on the first thread, which no goroutine can be sure of later.
var _ = endFirstThread()

// endFirstThread ends the first thread of such a process alone; another one then waits for the end of the standard
// input and ends the process. Neither tells the runtime, which would wait for the first for ever.
func endFirstThread() bool {
	if os.Getenv(ofThreads) == "" {
		return false
	}
	runtime.GOMAXPROCS(4)
	var waiting atomic.Bool
	go func() {
		runtime.LockOSThread()
		var buffer [1]byte
		waiting.Store(true)
		_, _, _ = unix.RawSyscall(unix.SYS_READ, 0, uintptr(unsafe.Pointer(&buffer)), 1)
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}()
	for !waiting.Load() { // the scheduler is not to be needed
	}
	_, _, err := unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	panic(err)
}

// TestThreadsOutliveTheFirst sees that a process is there as long as one of its threads is, and then no more.
func TestThreadsOutliveTheFirst(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ofThreads+"=1")
	stdin, err := cmd.StdinPipe()
	check(t, err)
	check(t, cmd.Start())
	stat := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "stat")
	state := func() string {
		data, err := os.ReadFile(stat)
		check(t, err)
		return strings.Fields(string(data))[2]
	}
	for state() != "Z" {
		time.Sleep(time.Millisecond)
	}
	among := func() bool { return slices.Contains(descendants([]int{os.Getpid()}), cmd.Process.Pid) }
	if !among() {
		t.Error("a process whose first thread has ended is taken for ended")
	}
	check(t, stdin.Close())
	for deadline := time.Now().Add(10 * time.Second); among(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a process that has ended is taken for running")
		}
	}
	check(t, cmd.Wait())
}
