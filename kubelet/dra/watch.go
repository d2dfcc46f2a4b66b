package dra

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/guard"
)

// retry is when look is called again that was not content.
const retry = 5 * time.Second

// watch calls look now, whenever a file comes into a folder or goes from it, and some time after it was not content,
// until ctx ends. What has happened in the meantime is one change.
func watch(ctx context.Context, folder string, look func() (content bool)) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch %s: %w", folder, err)
	}
	events := os.NewFile(uintptr(fd), "inotify") // non-blocking: a read ends when it is closed
	if _, err := unix.InotifyAddWatch(fd, folder, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO); err != nil {
		events.Close()
		return fmt.Errorf("watch %s: %w", folder, err)
	}
	changed := make(chan struct{}, 1)
	var reading guard.Group
	reading.Go("sockets of drivers", func() {
		defer close(changed)
		buffer := make([]byte, 4096)
		for {
			if _, err := events.Read(buffer); err != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	defer reading.Wait()
	defer events.Close()
	var again <-chan time.Time
	for {
		if again = nil; !look() {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changed:
			if !ok {
				return fmt.Errorf("watch %s: no more events", folder)
			}
		case <-again:
		}
	}
}
