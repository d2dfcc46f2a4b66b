package logs

import (
	"context"
	"os"
	"path/filepath"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// directory is the log directory that a container's log, <directory>/<pod>/<container>/<run>.log, is in.
// The directory is the node's; what is below it may be of a container that has it mounted.
func directory(log string) string { return filepath.Dir(filepath.Dir(filepath.Dir(log))) }

// Open opens a container's log for reading.
func Open(path string) (*os.File, error) { return untrusted.Open(directory(path), path) }

// Tail reads at most the last limit bytes of a container's log.
func Tail(ctx context.Context, path string, limit int64) ([]byte, error) {
	return untrusted.Tail(ctx, path, limit, func() (*os.File, error) { return Open(path) })
}
