package databases

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// folder is where the servers of this process live. Processes of tests have
// numbers; the lock on the folder of a number is held as long as the process lives,
// so that the next one knows what nobody uses any more.
type folder struct {
	path string
	lock *os.File

	mu   sync.Mutex
	free []int // ports
}

// Ports are below those that the kernel hands out by itself, so that nobody takes
// one while its server is down.
const (
	firstPort    = 17_000
	portsOfOne   = 100
	maxProcesses = 50
)

// home is the folder of this process.
var home = sync.OnceValues(func() (*folder, error) {
	var mine *folder
	var errs []error
	for n := range maxProcesses {
		path := filepath.Join(os.TempDir(), fmt.Sprintf("skiff-databases-%d-%d", os.Getuid(), n))
		if _, err := os.Lstat(path); err != nil && mine != nil {
			continue // nothing to clear away
		}
		f, err := claim(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if mine != nil {
			f.lock.Close()
			continue
		}
		mine = f
		for i := range portsOfOne {
			mine.free = append(mine.free, firstPort+n*portsOfOne+i)
		}
	}
	if mine == nil {
		return nil, fmt.Errorf("no folder for databases: %w", errors.Join(errs...))
	}
	return mine, nil
})

// claim makes a folder this process's own, and empty.
func claim(path string) (*folder, error) {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	lock, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := &folder{path: path, lock: lock}
	if err := f.take(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), lock.Close())
	}
	return f, nil
}

func (f *folder) take() error {
	info, err := f.lock.Stat()
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Getuid() {
		return fmt.Errorf("belongs to user %d", owner)
	}
	if err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	killUsers(f.path)
	entries, err := os.ReadDir(f.path)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(f.path, entry.Name())))
	}
	// Servers run as another user, who must get to what is below.
	return errors.Join(err, os.Chmod(f.path, 0o755))
}

// takePorts returns ports that nobody listens on.
func (f *folder) takePorts(n int) (ports []int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(ports) < n {
		if len(f.free) == 0 {
			return nil, errors.New("all ports for databases are taken")
		}
		port := f.free[0]
		f.free = f.free[1:]
		l, err := net.Listen("tcp", address(port))
		if err != nil {
			continue
		}
		l.Close()
		ports = append(ports, port)
	}
	return ports, nil
}

func (f *folder) givePorts(ports []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = append(f.free, ports...)
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
