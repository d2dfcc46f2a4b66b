package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// importImages loads the archives of c into the runtime.
func importImages(ctx context.Context, c Config) error {
	for _, archive := range c.Images {
		if _, err := ImportImage(ctx, c, archive, func(_, _ int64) {}); err != nil {
			return err
		}
	}
	return nil
}

// pinned is the label by which containerd tells the kubelet not to remove an
// image for want of disk space: one from an archive can perhaps not be pulled.
const pinned = "io.cri-containerd.pinned=pinned"

// ImportImage loads a docker or OCI archive into the node's runtime, where pods
// find it under the names the archive gives it and it stays until RemoveImage. It does nothing if the runtime
// still has what it loaded from the same archive. tell is told how many bytes of how many the runtime has read.
func ImportImage(ctx context.Context, c Config, archive string, tell func(done, total int64)) (loaded bool, err error) {
	archive, err = filepath.Abs(archive)
	if err != nil {
		return false, err
	}
	info, err := os.Stat(archive)
	if err != nil {
		return false, err
	}
	mark := c.mark(archive, info)
	before, err := digests(ctx, c)
	if err != nil {
		return false, err
	}
	if mark.holds(before) {
		return false, nil
	}
	file, err := os.Open(archive)
	if err != nil {
		return false, err
	}
	defer file.Close()
	if _, err := ctrWith(ctx, c, &counted{Reader: file, total: info.Size(), tell: tell}, "images", "import", "-"); err != nil {
		return false, fmt.Errorf("%s: %w", archive, err)
	}
	after, err := digests(ctx, c)
	if err != nil {
		return true, err
	}
	brought := names(archive)
	for name, digest := range after {
		if digest != before[name] || slices.Contains(brought, name) {
			if _, err := ctr(ctx, c, "images", "label", name, pinned); err != nil {
				return true, err
			}
		}
	}
	return true, mark.write(brought, after)
}

// counted tells how far it was read.
type counted struct {
	io.Reader
	done, total int64
	tell        func(done, total int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.done += int64(n)
	c.tell(c.done, c.total)
	return n, err
}

// mark is the file that says what an archive brought: a line of name and digest
// for every image. Archives are written anew, not changed in place, so that
// size and time tell one from what stood there before.
type mark string

func (c Config) mark(archive string, info fs.FileInfo) mark {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", archive, info.Size(), info.ModTime().UnixNano()))
	return mark(filepath.Join(c.Dir, "containerd", "imported-"+hex.EncodeToString(sum[:8])))
}

// holds reports whether the node still has what the archive brought: an image
// may have been removed since, by hand or to free space, or replaced.
func (m mark) holds(here map[string]string) bool {
	data, err := os.ReadFile(string(m))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		name, digest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if here[name] != digest {
			return false
		}
	}
	return true
}

// write notes what the names stand for. Without names, or with one the runtime
// spells otherwise, it writes nothing: such an archive is loaded every time.
func (m mark) write(names []string, here map[string]string) error {
	var lines strings.Builder
	for _, name := range names {
		if here[name] == "" {
			return nil
		}
		fmt.Fprintln(&lines, name, here[name])
	}
	if lines.Len() == 0 {
		return nil
	}
	return atomicfile.Write(string(m), []byte(lines.String()), 0o644)
}

// names are those of the images in a docker archive; none for an OCI archive.
func names(archive string) []string {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	if err != nil {
		return nil
	}
	var names []string
	for _, image := range manifest {
		names = append(names, image.RepoTags...)
	}
	return names
}

// Images lists the names of the node's images.
func Images(ctx context.Context, c Config) ([]string, error) {
	here, err := digests(ctx, c)
	return slices.Sorted(maps.Keys(here)), err
}

// digests are those of the node's images, by name.
func digests(ctx context.Context, c Config) (map[string]string, error) {
	out, err := ctr(ctx, c, "images", "list")
	if err != nil {
		return nil, err
	}
	// A line for each: REF TYPE DIGEST …, under a heading.
	here := make(map[string]string)
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[2], "sha256:") && !strings.HasPrefix(fields[0], "sha256:") {
			here[fields[0]] = fields[2]
		}
	}
	return here, nil
}

// RemoveImage removes an image by name.
func RemoveImage(ctx context.Context, c Config, name string) error {
	_, err := ctr(ctx, c, "images", "rm", name)
	return err
}
