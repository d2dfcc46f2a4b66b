// Package databases gives tests and measurements real databases: PostgreSQL,
// MariaDB and etcd on loopback, started by the test itself. Nothing of them
// outlives the process of the test, also when that is killed.
//
// Postgres, MariaDB and Etcd are for tests that need a database. NewPostgres,
// NewMariaDB and NewEtcd are for tests of faults: a server that no other test
// uses, to be killed, stopped and started again. NewInstance is for programs that
// are no tests.
//
// The servers write as they do in production: what they acknowledge has been
// synced.
package databases

import (
	"fmt"
	"sync"
	"testing"
)

// Postgres returns the URL of a fresh database, postgres://user:password@127.0.0.1:port/name.
// All tests of the process share one server.
func Postgres(t testing.TB) string {
	t.Helper()
	return sharedPostgres.database(t)
}

// MariaDB returns the URL of a fresh database, mysql://user:password@127.0.0.1:port/name.
// All tests of the process share one server.
func MariaDB(t testing.TB) string {
	t.Helper()
	return sharedMariaDB.database(t)
}

// Etcd returns the URL of a fresh server, etcd://127.0.0.1:port, which ends with
// the test.
func Etcd(t testing.TB) string {
	t.Helper()
	return NewEtcd(t).Database(t)
}

// OfTest returns a function that gives a test the same database whenever it is
// called: fresh makes it, at the first call. A test that is run again has another.
func OfTest(fresh func(t testing.TB) string) func(t testing.TB) string {
	var urls sync.Map // by the names of tests
	return func(t testing.TB) string {
		t.Helper()
		url, known := urls.LoadOrStore(t.Name(), sync.OnceValue(func() string { return fresh(t) }))
		if !known {
			t.Cleanup(func() { urls.Delete(t.Name()) })
		}
		return url.(func() string)()
	}
}

// NewPostgres starts a PostgreSQL that ends with the test, with more arguments
// than usual ("-c", "max_connections=10").
func NewPostgres(t testing.TB, args ...string) *Server {
	t.Helper()
	return startForTest(t, postgres{}, args)
}

// NewMariaDB starts a MariaDB that ends with the test, with more arguments than
// usual.
func NewMariaDB(t testing.TB, args ...string) *Server {
	t.Helper()
	return startForTest(t, mariadb{}, args)
}

// NewEtcd starts an etcd that ends with the test, with more arguments than usual
// ("--quota-backend-bytes=2000000").
func NewEtcd(t testing.TB, args ...string) *Server {
	t.Helper()
	return startForTest(t, etcd{}, args)
}

func startForTest(t testing.TB, e engine, args []string) *Server {
	t.Helper()
	s, err := newServer(e, args)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Errorf("end %s: %v", e, err)
		}
	})
	return s
}

// shared is the server of all tests of the process.
type shared struct {
	engine engine

	once   sync.Once
	server *Server
	err    error
}

var (
	sharedPostgres = &shared{engine: postgres{}}
	sharedMariaDB  = &shared{engine: mariadb{}}
)

func (s *shared) database(t testing.TB) string {
	t.Helper()
	s.once.Do(func() { s.server, s.err = newServer(s.engine, nil) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server.Database(t)
}

// Database makes a fresh database on the server and returns its URL. An etcd has
// one.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	url, err := s.fresh()
	if err != nil {
		t.Fatal(err)
	}
	return url
}

func (s *Server) fresh() (url string, err error) {
	if url, err = s.engine.database(s, fmt.Sprintf("skiff%d", s.databases.Add(1))); err != nil {
		return "", fmt.Errorf("make a database: %w\n%s", err, s.said())
	}
	return url, nil
}
