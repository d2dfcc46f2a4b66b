// Package image makes container images on the spot, from programs and packages
// of the distribution, without a registry, a daemon or a base image. Equal
// contents give equal digests.
package image

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// Image says what an image is made of.
type Image struct {
	// Reference is the image's full name with its tag.
	Reference string
	// Layers lie on each other in this order; what comes later wins. Images that
	// have a layer in common share it.
	Layers []Layer
	// Config is what the image tells of itself: entry point, user, environment.
	Config v1.Config
}

// Layer is a part of an image's file tree.
type Layer []Part

// Part is something that goes into the file tree of an image.
type Part interface {
	// Key changes when what Write writes changes.
	Key() (string, error)
	// Write adds the part to the tree below root.
	Write(root string) error
}

// Ensure writes the image as an archive into dir, unless the one there is of the
// same contents, and returns the archive's path.
func (i Image) Ensure(dir string) (archive string, err error) {
	key, err := i.key()
	if err != nil {
		return "", fmt.Errorf("image %s: %w", i.Reference, err)
	}
	archive = filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(i.Reference)+".tar")
	keyFile := archive + ".key"
	if old, err := os.ReadFile(keyFile); err == nil && string(old) == key {
		if _, err := os.Stat(archive); err == nil {
			return archive, nil
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := i.write(archive); err != nil {
		return "", fmt.Errorf("make image %s: %w", i.Reference, err)
	}
	return archive, atomicfile.Write(keyFile, []byte(key), 0o644)
}

// key stands for all that goes into the image.
func (i Image) key() (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%+v\n", i.Reference, i.Config)
	for _, layer := range i.Layers {
		key, err := layer.key()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, key)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (l Layer) key() (string, error) {
	sum := sha256.New()
	for _, part := range l {
		key, err := part.Key()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, key)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (i Image) write(archive string) error {
	ref, err := name.NewTag(i.Reference)
	if err != nil {
		return err
	}
	var layers []v1.Layer
	for _, l := range i.Layers {
		file, err := l.ensure(filepath.Join(filepath.Dir(archive), "layers"))
		if err != nil {
			return err
		}
		layer, err := tarball.LayerFromFile(file)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	img, err := i.assemble(layers)
	if err != nil {
		return err
	}
	return atomicfile.Replace(archive, 0o644, func(to *os.File) error { return tarball.Write(ref, img, to) })
}

// ensure writes the layer into dir, unless it is there, and returns its file,
// which is named by its key.
func (l Layer) ensure(dir string) (string, error) {
	key, err := l.key()
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, key+".tar.gz")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	root, err := os.MkdirTemp(dir, "tree-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(root)
	for _, part := range l {
		if err := part.Write(root); err != nil {
			return "", err
		}
	}
	return file, atomicfile.Replace(file, 0o644, func(to *os.File) error { return pack(root, to) })
}

func (i Image) assemble(layers []v1.Layer) (v1.Image, error) {
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = i.Config
	return mutate.ConfigFile(img, file)
}

// pack writes a file tree as a compressed archive, sorted and without times, so
// that equal trees give equal archives.
func pack(root string, out io.Writer) error {
	compressed, err := gzip.NewWriterLevel(out, gzip.BestSpeed) // it stays on this machine
	if err != nil {
		return err
	}
	w := tar.NewWriter(compressed)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		return packEntry(w, root, path, entry)
	})
	return errors.Join(err, w.Close(), compressed.Close())
}

func packEntry(w *tar.Writer, root, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode().Type() == fs.ModeSymlink {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(root, path); err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	header.Uid, header.Gid, header.Uname, header.Gname = int(stat.Uid), int(stat.Gid), "", ""
	header.ModTime, header.AccessTime, header.ChangeTime = time.Unix(0, 0), time.Time{}, time.Time{}
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}
