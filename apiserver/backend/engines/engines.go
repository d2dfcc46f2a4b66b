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
	"github.com/skiff-k8s/skiff/apiserver/backend/mysql"
	"github.com/skiff-k8s/skiff/apiserver/backend/postgres"
	"github.com/skiff-k8s/skiff/apiserver/backend/sqlite"
)

// engines by the scheme of their URLs.
var engines = map[string]func(address string) (backend.Backend, error){
	"memory":   openMemory,
	"file":     openFile,
	"unsynced": openUnsynced,
	"sqlite":   openSQLite,
	"postgres": openPostgres,
	"mysql":    openMySQL,
	"etcd":     openEtcd,
}

// Help says which URLs there are, for people.
const (
	Help = `  file:///path     a file, for one server; in a directory it is named skiff.db
  unsynced:///path the same, quick, and not to be relied on when the machine fails: for tests
  sqlite:///path   a SQLite database, for one server; in a directory it is named skiff.sqlite
  postgres://…     a PostgreSQL database, as libpq has its URLs
  mysql://…        a MySQL or MariaDB database: mysql://user:password@host:3306/database
  etcd://…         an etcd: etcd://host:2379,host:2379
  memory://        nothing is kept when the server ends
`
	Short = "file:///path, sqlite:///path, postgres://…, mysql://…, etcd://… or memory://"
)

// ErrUnsupported: there is no engine for the scheme of a URL.
var ErrUnsupported = errors.New("unsupported storage")

// Open opens the backend a URL names (Help), which must be closed. A file is made
// if it is not there. What a URL has of secrets, a password above all, is in no
// error.
func Open(address string) (backend.Backend, error) {
	scheme, _, _ := strings.Cut(address, "://")
	open := engines[scheme]
	if open == nil {
		schemes := slices.Sorted(maps.Keys(engines))
		return nil, fmt.Errorf("%w: the URL must begin with %s", ErrUnsupported, strings.Join(schemes, ":// or ")+"://")
	}
	return open(address)
}

// ErrMissing: nothing is stored where a URL points.
var ErrMissing = errors.New("there is no such storage")

// OpenExisting is Open of what is there already: it makes no file. ErrMissing.
func OpenExisting(address string) (backend.Backend, error) {
	scheme, _, _ := strings.Cut(address, "://")
	if scheme == "memory" {
		return nil, fmt.Errorf("%w: what is in memory:// is gone with its process", ErrMissing)
	}
	if name := files[scheme]; name != "" {
		path, err := pathOf(address, name)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s does not exist", ErrMissing, path)
		}
	}
	return Open(address)
}

// files are what engines of a file name it in a directory.
var files = map[string]string{"file": "skiff.db", "unsynced": "skiff.db", "sqlite": "skiff.sqlite"}

// ErrURL: the URL is malformed. What is wrong is not said, as it may be a
// password that is not escaped.
var ErrURL = errors.New("malformed storage URL")

func openMemory(address string) (backend.Backend, error) {
	if address != "memory://" {
		return nil, errors.New("storage URL: memory:// takes nothing more")
	}
	return memory.New(), nil
}

func openFile(address string) (backend.Backend, error) {
	path, err := pathOf(address, files["file"])
	if err != nil {
		return nil, err
	}
	return opened(file.Open(path))
}

func openUnsynced(address string) (backend.Backend, error) {
	path, err := pathOf(address, files["unsynced"])
	if err != nil {
		return nil, err
	}
	return opened(file.OpenUnsynced(path))
}

func openSQLite(address string) (backend.Backend, error) {
	path, err := pathOf(address, files["sqlite"])
	if err != nil {
		return nil, err
	}
	return opened(sqlite.Open(path))
}

func openPostgres(address string) (backend.Backend, error) { return opened(postgres.Open(address)) }

func openMySQL(address string) (backend.Backend, error) { return opened(mysql.Open(address)) }

// opened makes a backend of what an engine opened. A nil pointer in an
// interface would not be nil.
func opened[B backend.Backend](b B, err error) (backend.Backend, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// pathOf is the path a URL names; in a directory, that of the file name there.
func pathOf(address, name string) (string, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return "", ErrURL
	case u.Host != "" || u.User != nil || u.Path == "":
		return "", fmt.Errorf("storage URL: want an absolute path, as in %s:///var/lib/skiff/%s", u.Scheme, name)
	case u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("storage URL: %s:// takes no parameters", u.Scheme)
	}
	if info, err := os.Stat(u.Path); strings.HasSuffix(u.Path, "/") || err == nil && info.IsDir() {
		return filepath.Join(u.Path, name), nil
	}
	return u.Path, nil
}

func openEtcd(address string) (backend.Backend, error) {
	c, err := etcd.Parse(address, os.Getenv)
	if err != nil {
		return nil, err
	}
	return etcd.Open(c)
}
