package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
)

// contender is a server on a storage, to be measured beside another one.
type contender struct {
	storage string // as Skiff's URL of it begins
	server  string
	beside  string // the storage of the server that is not Skiff which it is compared with; "" for such a server
	// database is the kind of database that both use, "" if it is none.
	database string
	// commands are its programs, in the order in which they start.
	commands func(s *subject, set settings, k keys, database string) ([][]string, error)
}

func (c contender) name() string { return c.server + ", " + c.storage }

const (
	skiffAlone = "Skiff"
	kubeAlone  = "kube-apiserver"
	kubeOnKine = "kube-apiserver, kine"
)

// contenders are all, each after the one it is compared with.
var contenders = []contender{
	{storage: "etcd", server: kubeAlone, database: "etcd", commands: onEtcd},
	{storage: "etcd", server: skiffAlone, beside: "etcd", database: "etcd", commands: onURL},
	{storage: "file", server: skiffAlone, beside: "etcd", commands: onFile("file", "skiff.db")},
	{storage: "memory", server: skiffAlone, beside: "etcd", commands: onMemory},
	{storage: "sqlite", server: kubeOnKine, commands: onKine},
	{storage: "sqlite", server: skiffAlone, beside: "sqlite", commands: onFile("sqlite", "skiff.sqlite")},
	{storage: "postgres", server: kubeOnKine, database: "postgres", commands: onKine},
	{storage: "postgres", server: skiffAlone, beside: "postgres", database: "postgres", commands: onURL},
	{storage: "mysql", server: kubeOnKine, database: "mysql", commands: onKine},
	{storage: "mysql", server: skiffAlone, beside: "mysql", database: "mysql", commands: onURL},
}

// chosen are the contenders for storages, with those they are compared with; "all" is all.
func chosen(storages []string) ([]contender, error) {
	if slices.Equal(storages, []string{"all"}) {
		return contenders, nil
	}
	wanted := make(map[string]bool) // names
	for _, storage := range storages {
		known := false
		for _, c := range contenders {
			if c.server == skiffAlone && c.storage == storage {
				known = true
				wanted[c.name()] = true
				for _, other := range contenders {
					if other.beside == "" && other.storage == c.beside {
						wanted[other.name()] = true
					}
				}
			}
		}
		if !known {
			return nil, fmt.Errorf("no such storage: %q", storage)
		}
	}
	return slices.DeleteFunc(slices.Clone(contenders), func(c contender) bool { return !wanted[c.name()] }), nil
}

func onURL(s *subject, set settings, k keys, database string) ([][]string, error) {
	return [][]string{s.skiffAPIServer(set, k, database)}, nil
}

func onFile(scheme, name string) func(*subject, settings, keys, string) ([][]string, error) {
	return func(s *subject, set settings, k keys, _ string) ([][]string, error) {
		return [][]string{s.skiffAPIServer(set, k, scheme+"://"+filepath.Join(s.data, name))}, nil
	}
}

func onMemory(s *subject, set settings, k keys, _ string) ([][]string, error) {
	return [][]string{s.skiffAPIServer(set, k, "memory://")}, nil
}

func onEtcd(s *subject, set settings, k keys, database string) ([][]string, error) {
	return [][]string{s.kubeAPIServer(set, k, strings.Replace(database, "etcd://", "http://", 1))}, nil
}

// onKine is kube-apiserver on kine on a database, or on SQLite if there is none.
func onKine(s *subject, set settings, k keys, database string) ([][]string, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	endpoint, err := kineEndpoint(database, filepath.Join(s.data, "kine.sqlite"))
	if err != nil {
		return nil, err
	}
	return [][]string{
		{filepath.Join(set.tools, "kine"), "--listen-address", address, "--metrics-bind-address", "0", "--endpoint", endpoint,
			"--datastore-max-open-connections", fmt.Sprint(kineConnections)},
		s.kubeAPIServer(set, k, "http://"+address),
	}, nil
}

// kineConnections bounds how many connections kine has to its database. Without that it opens as many as it has
// requests, and the database refuses some.
const kineConnections = 100

// kineEndpoint is what kine calls a database. On SQLite it has kine's own parameters but one: a commit is synced, as
// Skiff's are, where kine's default (NORMAL) leaves it to the next checkpoint and loses it with the power.
func kineEndpoint(database, file string) (string, error) {
	if database == "" {
		return "sqlite://" + file + "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&cache=shared", nil
	}
	u, err := url.Parse(database)
	if err != nil {
		return "", err
	}
	switch u.Scheme {
	case "postgres":
		return database + "?sslmode=disable", nil
	case "mysql":
		return fmt.Sprintf("mysql://%s@tcp(%s)%s", u.User, u.Host, u.Path), nil
	}
	return "", errors.New("kine is not measured on " + u.Scheme)
}

// running is a contender that runs.
type running struct {
	subject  *subject
	database *databases.Instance // nil if there is none
}

// prepare starts the contender's database, if it has one, and describes its programs.
func (c contender) prepare(set settings, k keys, dir string) (_ *running, err error) {
	r := &running{}
	if r.subject, err = newSubject(dir, c.name(), true); err != nil {
		return nil, err
	}
	address := ""
	if c.database != "" {
		if r.database, err = databases.NewInstance(c.database, nil); err != nil {
			return nil, err
		}
		if err := r.database.Start(); err != nil {
			return nil, errors.Join(err, r.end())
		}
		if address, err = r.database.Database(); err != nil {
			return nil, errors.Join(err, r.end())
		}
	}
	if r.subject.commands, err = c.commands(r.subject, set, k, address); err != nil {
		return nil, errors.Join(err, r.end())
	}
	return r, nil
}

// end ends all programs, the database last.
func (r *running) end() error {
	r.subject.stop()
	if r.database == nil {
		return nil
	}
	return r.database.Remove()
}

// spent is the time that each of the three has spent on processors.
type spent struct{ client, server, database time.Duration }

func (s spent) since(before spent) spent {
	return spent{s.client - before.client, s.server - before.server, s.database - before.database}
}

func (s spent) all() time.Duration { return s.client + s.server + s.database }
