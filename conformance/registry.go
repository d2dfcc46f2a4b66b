package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// registry serves the images of archives to nodes, to be pulled but not pushed:
// the part of the OCI distribution specification that is called pull. It knows
// no other images, so that pulls of those that do not exist fail at once.
//
// It stands in for every registry: which one is meant, nodes say in ns.
type registry struct {
	archives map[string]string // by the image's full name with tag

	mu     sync.Mutex
	images map[string]v1.Image // those asked for, by archive
}

// openRegistry serves the archives that match a pattern.
func openRegistry(pattern string) (*registry, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no images at %s: make conformance-images", pattern)
	}
	r := &registry{archives: make(map[string]string), images: make(map[string]v1.Image)}
	for _, file := range files {
		manifest, err := tarball.LoadManifest(open(file))
		if err != nil {
			return nil, fmt.Errorf("image archive %s: %w", file, err)
		}
		for _, image := range manifest {
			for _, name := range image.RepoTags {
				r.archives[name] = file
			}
		}
	}
	return r, nil
}

func open(file string) tarball.Opener {
	return func() (io.ReadCloser, error) { return os.Open(file) }
}

// serve answers on a free port of every address, for nodes have several, until
// stop is called.
func (r *registry) serve() (port int, stop func() error, err error) {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		return 0, nil, err
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stop = func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}
	return listener.Addr().(*net.TCPAddr).Port, stop, nil
}

// ServeHTTP answers what nodes ask to pull an image.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "images can be pulled only")
		return
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", req.URL.Path)
		return
	}
	if path == "" {
		return // yes, this is a registry
	}
	host := req.URL.Query().Get("ns")
	if repository, digest, ok := strings.Cut(path, "/blobs/"); ok {
		r.blob(w, host+"/"+repository, digest)
	} else if repository, reference, ok := strings.Cut(path, "/manifests/"); ok {
		r.manifest(w, host+"/"+repository, reference)
	} else {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", path)
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`+"\n", code, message)
}

// manifest answers with the manifest of an image, by its tag or digest.
func (r *registry) manifest(w http.ResponseWriter, repository, reference string) {
	image, err := r.find(repository, func(name string, image v1.Image) bool {
		if name == repository+":"+reference {
			return true
		}
		digest, err := image.Digest()
		return err == nil && digest.String() == reference
	})
	if errors.Is(err, fs.ErrNotExist) {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", repository+" "+reference+" is none of the images of the suite")
		return
	}
	if err == nil {
		err = sendManifest(w, image)
	}
	if err != nil {
		slog.Error("serve an image", "repository", repository, "reference", reference, "error", err)
	}
}

func sendManifest(w http.ResponseWriter, image v1.Image) error {
	data, err := image.RawManifest()
	if err != nil {
		return err
	}
	kind, err := image.MediaType()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", string(kind))
	w.Header().Set("Docker-Content-Digest", digest.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, err = w.Write(data)
	return err
}

// blob answers with a layer or the configuration of an image.
func (r *registry) blob(w http.ResponseWriter, repository, digest string) {
	hash, err := v1.NewHash(digest)
	if err != nil {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	var layer v1.Layer
	_, err = r.find(repository, func(_ string, image v1.Image) (found bool) {
		layer, found = part(image, hash)
		return found
	})
	if err != nil {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", repository+" has no "+digest)
		return
	}
	if err := sendBlob(w, layer, digest); err != nil {
		slog.Error("serve a part of an image", "repository", repository, "digest", digest, "error", err)
	}
}

// part is a layer of an image, or its configuration, which to a registry is the
// same.
func part(image v1.Image, hash v1.Hash) (v1.Layer, bool) {
	if name, err := image.ConfigName(); err == nil && name == hash {
		layer, err := partial.ConfigLayer(image)
		return layer, err == nil
	}
	layer, err := image.LayerByDigest(hash)
	return layer, err == nil
}

func sendBlob(w http.ResponseWriter, layer v1.Layer, digest string) error {
	size, err := layer.Size()
	if err != nil {
		return err
	}
	content, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer content.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	_, err = io.Copy(w, content)
	return err
}

// find returns an image of a repository, or fs.ErrNotExist.
func (r *registry) find(repository string, match func(name string, image v1.Image) bool) (v1.Image, error) {
	for name, archive := range r.archives {
		if !strings.HasPrefix(name, repository+":") {
			continue
		}
		image, err := r.load(archive)
		if err != nil {
			return nil, err
		}
		if match(name, image) {
			return image, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", repository, fs.ErrNotExist)
}

// load reads an archive, once: its digests are made of all its bytes.
func (r *registry) load(archive string) (v1.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if image, ok := r.images[archive]; ok {
		return image, nil
	}
	image, err := tarball.Image(open(archive), nil)
	if err != nil {
		return nil, fmt.Errorf("image archive %s: %w", archive, err)
	}
	if _, err := image.Digest(); err != nil {
		return nil, fmt.Errorf("image archive %s: %w", archive, err)
	}
	r.images[archive] = image
	return image, nil
}
