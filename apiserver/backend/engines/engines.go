// Package engines opens a backend by its URL. It is the one place that knows
// all engines.
package engines

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

// engines by the scheme of their URLs.
var engines = map[string]func(*url.URL) (backend.Backend, error){
	"memory": openMemory,
	"file":   openFile,
}

// ErrUnsupported: there is no engine for the scheme of a URL.
var ErrUnsupported = errors.New("unsupported storage")

// Open opens the backend a URL names, which must be closed:
//
//	memory://        in this process, gone with it
//	file:///a/path   a file, made if it is not there; in a directory it is named skiff.db
func Open(address string) (backend.Backend, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("storage URL: %w", err)
	}
	open := engines[u.Scheme]
	if open == nil {
		schemes := slices.Sorted(maps.Keys(engines))
		return nil, fmt.Errorf("%w %q: the URL must begin with %s", ErrUnsupported, u.Redacted(), strings.Join(schemes, ":// or ")+"://")
	}
	return open(u)
}

func openMemory(u *url.URL) (backend.Backend, error) {
	if u.Host != "" || u.Path != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("storage URL %q: memory:// takes nothing more", u)
	}
	return memory.New(), nil
}

func openFile(u *url.URL) (backend.Backend, error) {
	switch {
	case u.Host != "" || u.Path == "":
		return nil, fmt.Errorf("storage URL %q: want an absolute path, as in file:///var/lib/skiff/skiff.db", u)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("storage URL %q: file:// takes no parameters", u)
	}
	path := u.Path
	if info, err := os.Stat(path); strings.HasSuffix(path, "/") || err == nil && info.IsDir() {
		path = filepath.Join(path, "skiff.db")
	}
	return file.Open(path)
}
