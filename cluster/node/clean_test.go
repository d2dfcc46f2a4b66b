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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy/nettest"
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

// TestLinkThatGoesByItself removes a link that the kernel takes away between the look and the removal, as it does with
// the link to a namespace that ends. Without the link there is nothing to do.
func TestLinkThatGoesByItself(t *testing.T) {
	ns := nettest.New(t)
	nettest.Join(t, ns, "sk-there", "192.0.2.1/24", nettest.New(t), "here", "192.0.2.2/24")
	ns.Do(t, func() {
		link, err := netlink.LinkByName("sk-there")
		if err != nil {
			t.Error(err)
			return
		}
		if err := RemoveLink("sk-there"); err != nil {
			t.Errorf("a link that is there: %v", err)
		}
		if _, err := netlink.LinkByName("sk-there"); !errors.As(err, new(netlink.LinkNotFoundError)) {
			t.Errorf("the link is still there: %v", err)
		}
		if err := removeFound(link); err != nil {
			t.Errorf("a link that has gone meanwhile: %v", err)
		}
		if err := RemoveLink("sk-there"); err != nil {
			t.Errorf("a link that is not there: %v", err)
		}
	})
}

// TestLinksOfOpenPods removes the bridge of pods while somebody has the namespace of one open: its link goes too, and links
// that are not the bridge's stay.
func TestLinksOfOpenPods(t *testing.T) {
	ns, pod := nettest.New(t), nettest.New(t)
	nettest.Join(t, ns, "other", "192.0.2.1/24", nettest.New(t), "here", "192.0.2.2/24")
	before := ns.State(t)
	ns.Bridge(t, "pods", "10.244.0.1/24")
	ns.Plug(t, "pods", "port", pod, []string{"10.244.0.5/24"}, []string{"10.244.0.1"})
	var err error
	ns.Do(t, func() { err = errors.Join(removeBridge("pods"), removeBridge("pods")) })
	check(t, err)
	if left := nettest.Difference(before, ns.State(t)); left != "" {
		t.Errorf("left behind:\n%s", left)
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
