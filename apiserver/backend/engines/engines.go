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
	"github.com/skiff-k8s/skiff/apiserver/backend/etcd"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/backend/sqlite"
)

// engines by the scheme of their URLs.
var engines = map[string]func(address string) (backend.Backend, error){
	"memory": parsed(openMemory),
	"file":   parsed(openFile),
	"sqlite": parsed(openSQLite),
	"etcd":   openEtcd,
}

// ErrUnsupported: there is no engine for the scheme of a URL.
var ErrUnsupported = errors.New("unsupported storage")

// Open opens the backend a URL names, which must be closed:
//
//	memory://          in this process, gone with it
//	file:///a/path     a file, made if it is not there; in a directory it is named skiff.db
//	sqlite:///a/path   a SQLite database, likewise; in a directory it is named skiff.sqlite
//	etcd://a:1,b:2     the etcd of a cluster; see etcd.Parse
//
// What a URL has of secrets, a password above all, is in no error.
func Open(address string) (backend.Backend, error) {
	scheme, _, _ := strings.Cut(address, "://")
	if open := engines[scheme]; open != nil {
		return open(address)
	}
	return parsed(unsupported)(address)
}

func unsupported(u *url.URL) (backend.Backend, error) {
	schemes := slices.Sorted(maps.Keys(engines))
	return nil, fmt.Errorf("%w %q: the URL must begin with %s", ErrUnsupported, redacted(u), strings.Join(schemes, ":// or ")+"://")
}

// parsed opens what is a URL as package url understands it.
func parsed(open func(*url.URL) (backend.Backend, error)) func(string) (backend.Backend, error) {
	return func(address string) (backend.Backend, error) {
		u, err := url.Parse(address)
		if err != nil {
			return nil, fmt.Errorf("storage URL: %w", withoutURL(err))
		}
		return open(u)
	}
}

func openEtcd(address string) (backend.Backend, error) {
	c, err := etcd.Parse(address, os.Getenv)
	if err != nil {
		return nil, err
	}
	return etcd.Open(c)
}

// withoutURL is what net/url found wrong, without the URL it was found in.
func withoutURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// redacted is a URL without its password and parameters, which may have others.
func redacted(u *url.URL) string {
	shown := *u
	shown.RawQuery, shown.Fragment, shown.RawFragment = "", "", ""
	return shown.Redacted()
}

func openMemory(u *url.URL) (backend.Backend, error) {
	if u.Host != "" || u.Path != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("storage URL %q: memory:// takes nothing more", redacted(u))
	}
	return memory.New(), nil
}

func openFile(u *url.URL) (backend.Backend, error) {
	path, err := pathOf(u, "skiff.db")
	if err != nil {
		return nil, err
	}
	return opened(file.Open(path))
}

func openSQLite(u *url.URL) (backend.Backend, error) {
	path, err := pathOf(u, "skiff.sqlite")
	if err != nil {
		return nil, err
	}
	return opened(sqlite.Open(path))
}

// opened makes a backend of what an engine opened. A nil pointer in an
// interface would not be nil.
func opened[B backend.Backend](b B, err error) (backend.Backend, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// pathOf is the path a URL names; in a directory, that of the file name there.
func pathOf(u *url.URL, name string) (string, error) {
	switch {
	case u.Host != "" || u.Path == "":
		return "", fmt.Errorf("storage URL %q: want an absolute path, as in %s:///var/lib/skiff/%s", redacted(u), u.Scheme, name)
	case u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("storage URL %q: %s:// takes no parameters", redacted(u), u.Scheme)
	}
	if info, err := os.Stat(u.Path); strings.HasSuffix(u.Path, "/") || err == nil && info.IsDir() {
		return filepath.Join(u.Path, name), nil
	}
	return u.Path, nil
}
