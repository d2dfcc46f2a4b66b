package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// file is one file of a volume whose contents come from the API.
type file struct {
	data []byte
	mode os.FileMode
	// owner is the user the file belongs to, if not root.
	owner *int64
}

// contents is a type of volumes that are a directory of files from the API, replaced as a whole.
type contents struct {
	kind     string
	inMemory bool // never on a disk
	collect  func(ctx context.Context, v *volume) (map[string]file, error)
}

func (c contents) hostPath(v *volume) string { return v.dir(c.kind) }

func (c contents) setUp(ctx context.Context, v *volume) error {
	// First the contents, so that a volume which cannot have any leaves nothing behind.
	files, err := c.collect(ctx, v)
	if err != nil {
		return err
	}
	dir := v.dir(c.kind)
	if c.inMemory {
		err = makeTmpfs(dir, v.memory())
	} else {
		err = makeDir(dir, 0o777)
	}
	if err != nil {
		return err
	}
	if err := makeMountPoints(v, dir); err != nil {
		return err
	}
	return replace(ctx, dir, files, v.fsGroup())
}

func (c contents) refresh(ctx context.Context, v *volume) error {
	files, err := c.collect(ctx, v)
	if err != nil {
		return err
	}
	return replace(ctx, v.dir(c.kind), files, v.fsGroup())
}

// makeMountPoints makes the directories in a volume that other volumes of a container are mounted on:
// containers see the volume read-only, so that the runtime could not.
func makeMountPoints(v *volume, dir string) error {
	for _, c := range containersOf(v.pod) {
		for _, outer := range c.VolumeMounts {
			if outer.Name != v.Name || outer.SubPath != "" || outer.SubPathExpr != "" {
				continue
			}
			for _, inner := range c.VolumeMounts {
				path, below := strings.CutPrefix(filepath.Clean(inner.MountPath), filepath.Clean(outer.MountPath)+"/")
				if !below || inner.Name == v.Name {
					continue
				}
				if strings.HasPrefix(path, "..") {
					return fmt.Errorf("mount path %s is inside the hidden files of volume %s", inner.MountPath, v.Name)
				}
				if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
					return fmt.Errorf("make mount point for %s: %w", inner.Name, err)
				}
			}
		}
	}
	return nil
}
