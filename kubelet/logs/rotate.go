// Package logs keeps containers' log files small. The runtime writes them; when one has grown too large
// it is renamed, the runtime opens a new one, and the older ones are compressed and dropped.
package logs

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// stamp is how rotated files are named after the time of their rotation.
const stamp = "20060102-150405"

// Log is the log of a running container.
type Log struct {
	ContainerID string
	Path        string
}

// Rotator rotates logs. Its zero limits are upstream's.
type Rotator struct {
	// Running lists the logs of all running containers.
	Running func(ctx context.Context) ([]Log, error)
	// Reopen has the runtime open the container's log anew.
	Reopen func(ctx context.Context, containerID string) error

	MaxSize  int64         // bytes; 10 MiB if zero
	MaxFiles int           // of one container, the present one included; 5 if zero
	Every    time.Duration // 10 seconds if zero
}

// Run rotates until ctx ends.
func (r *Rotator) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(cmp.Or(r.Every, 10*time.Second)):
		}
		running, err := r.Running(ctx)
		if err != nil {
			continue // the runtime is down, and others say so
		}
		for _, l := range running {
			if err := r.Rotate(ctx, l, time.Now()); err != nil && ctx.Err() == nil {
				slog.Warn("log not rotated", "log", l.Path, "error", err)
			}
		}
	}
}

// Rotate rotates one log if it is too large.
func (r *Rotator) Rotate(ctx context.Context, l Log, now time.Time) error {
	root, err := os.OpenRoot(directory(l.Path)) // out of which no link leads
	if err != nil {
		return err
	}
	defer root.Close()
	path, err := filepath.Rel(root.Name(), l.Path)
	if err != nil {
		return err
	}
	info, err := root.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		// A rotation was cut off between renaming and reopening.
		return r.Reopen(ctx, l.ContainerID)
	}
	if err != nil {
		return err
	}
	if info.Size() < cmp.Or(r.MaxSize, 10<<20) {
		return nil
	}
	if err := r.tidy(ctx, root, path); err != nil {
		return err
	}
	rotated := path + "." + now.Format(stamp)
	if err := root.Rename(path, rotated); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err := r.Reopen(ctx, l.ContainerID); err != nil {
		// Without a new file the container would go on writing to the renamed one.
		return errors.Join(fmt.Errorf("reopen log of container %s: %w", l.ContainerID, err), root.Rename(rotated, path))
	}
	return nil
}

// tidy compresses the files rotated before and drops the oldest, so that there is room for two more: the
// one about to be rotated and the new one. The newest rotated file stays as it is, as it may be read.
func (r *Rotator) tidy(ctx context.Context, root *os.Root, path string) error {
	files, err := fs.Glob(root.FS(), path+".*")
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f string) bool {
		if strings.HasSuffix(f, ".tmp") {
			return root.Remove(f) == nil
		}
		return false
	})
	slices.Sort(files) // their names tell their times
	for keep := max(cmp.Or(r.MaxFiles, 5)-2, 0); len(files) > keep; files = files[1:] {
		if err := root.Remove(files[0]); err != nil {
			return fmt.Errorf("remove old log: %w", err)
		}
	}
	for _, f := range files {
		if !strings.HasSuffix(f, ".gz") {
			if err := compress(ctx, root, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// compress replaces a file by its compressed form. What is no log is removed.
func compress(ctx context.Context, root *os.Root, path string) (err error) {
	in, err := Open(filepath.Join(root.Name(), path))
	if errors.Is(err, untrusted.ErrNotRegular) || errors.Is(err, unix.ELOOP) {
		return root.Remove(path)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	out, err := root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode())
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			out.Close()
			root.Remove(tmp)
		}
	}()
	z := gzip.NewWriter(out)
	if _, err = io.Copy(z, reader{ctx, in}); err != nil {
		return fmt.Errorf("compress %s: %w", path, err)
	}
	if err = errors.Join(z.Close(), out.Close()); err != nil {
		return fmt.Errorf("compress %s: %w", path, err)
	}
	if err = root.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return root.Remove(path)
}

// reader reads until ctx ends.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// Remove removes a container's log with what rotation made of it.
func Remove(path string) error {
	root, err := os.OpenRoot(directory(path))
	if err != nil {
		return err
	}
	defer root.Close()
	name, err := filepath.Rel(root.Name(), path)
	if err != nil {
		return err
	}
	files, err := fs.Glob(root.FS(), name+"*")
	for _, file := range files {
		err = errors.Join(err, root.Remove(file))
	}
	return err
}
