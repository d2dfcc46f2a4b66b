package volume

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// hostPath volumes are what is on the host already, or is made there when their type says so. The
// kubelet never changes or removes it.
type hostPath struct{}

func (hostPath) hostPath(v *volume) string              { return v.HostPath.Path }
func (hostPath) refresh(context.Context, *volume) error { return nil }

func (hostPath) setUp(ctx context.Context, v *volume) error {
	s := v.HostPath
	_, err := untrusted.Await(ctx, fmt.Sprintf("host path %v of type %q", s.Path, ptr.Deref(s.Type, "")), func() (bool, error) {
		return true, setUpHostPath(s)
	})
	return err
}

func setUpHostPath(s *v1.HostPathVolumeSource) error {
	path, want := s.Path, v1.HostPathUnset
	if s.Type != nil {
		want = *s.Type
	}
	switch want {
	case v1.HostPathUnset:
		return nil // the runtime makes a directory when there is nothing
	case v1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(path); os.IsNotExist(err) {
			return os.MkdirAll(path, 0o755)
		}
	case v1.HostPathFileOrCreate:
		if _, err := os.Stat(path); os.IsNotExist(err) {
			f, err := os.OpenFile(path, os.O_CREATE|unix.O_NONBLOCK, 0o644) // a FIFO there would not answer
			if err != nil {
				return err
			}
			return f.Close()
		}
	}

	info, err := os.Stat(path)
	kind, found := hostPathTypes[want]
	if !found {
		return fmt.Errorf("%s is an invalid volume type", want)
	}
	if err != nil || !kind.is(info.Mode()) {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, kind.name)
	}
	return nil
}

var hostPathTypes = map[v1.HostPathType]struct {
	name string
	is   func(fs.FileMode) bool
}{
	v1.HostPathDirectoryOrCreate: {"directory", fs.FileMode.IsDir},
	v1.HostPathDirectory:         {"directory", fs.FileMode.IsDir},
	v1.HostPathFileOrCreate:      {"file", notDir},
	v1.HostPathFile:              {"file", notDir},
	v1.HostPathSocket:            {"socket file", func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 }},
	v1.HostPathCharDev:           {"character device", func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 }},
	v1.HostPathBlockDev:          {"block device", func(m fs.FileMode) bool { return m&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice }},
}

func notDir(m fs.FileMode) bool { return !m.IsDir() }
