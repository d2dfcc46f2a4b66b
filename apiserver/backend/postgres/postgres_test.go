package postgres_test

import (
	"database/sql"
	"fmt"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/postgres"
	"github.com/skiff-k8s/skiff/apiserver/backend/relational/relationaltest"
)

func TestContract(t *testing.T) {
	backendtest.Run(t, backendtest.Engine{
		Durable: true, Shared: true,
		Open: func(t testing.TB) backend.Backend { return open(t, own(t)) },
		Cut:  func(t testing.TB) { cut(t, own(t)) },
	})
}

func TestFaults(t *testing.T) {
	relationaltest.Run(t, relationaltest.Engine{
		Open: func(url string) (backend.Backend, error) {
			b, err := postgres.Open(url)
			if err != nil {
				return nil, err
			}
			return b, nil
		},
		Database: databases.Postgres,
		Server:   func(t testing.TB) relationaltest.Server { return databases.NewPostgres(t) },
		Execute:  execute,
		Size:     size,
	})
}

// size is how many bytes the tables have on disk.
func size(t testing.TB, url string) (bytes int64) {
	t.Helper()
	db := connect(t, url)
	defer db.Close()
	if err := db.QueryRow("SELECT SUM(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'skiff_%'").Scan(&bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// own is the URL of the database of a test.
var own = databases.OfTest(databases.Postgres)

// cut ends all connections to a database.
func cut(t testing.TB, url string) {
	t.Helper()
	execute(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
}

func execute(t testing.TB, url, statement string) {
	t.Helper()
	db := connect(t, url)
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Error(err)
	}
}

func connect(t testing.TB, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func BenchmarkPut(b *testing.B)    { backendtest.BenchmarkPut(b, openNew) }
func BenchmarkUpdate(b *testing.B) { backendtest.BenchmarkUpdate(b, openNew) }

func openNew(t testing.TB) backend.Backend { return open(t, databases.Postgres(t)) }

func open(t testing.TB, url string) backend.Backend {
	t.Helper()
	b, err := postgres.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Schemas of one database hear each other's notifications, and are no less
// apart for it.
func TestSchemas(t *testing.T) {
	url := databases.Postgres(t)
	var servers []backend.Backend
	for _, schema := range []string{"one", "two"} {
		execute(t, url, "CREATE SCHEMA "+schema)
		b := open(t, url+"?search_path="+schema)
		defer b.Close()
		servers = append(servers, b)
	}
	for i := range int64(200) {
		// The first is always ahead.
		if _, err := servers[0].Put(t.Context(), fmt.Sprintf("/a/%d", i), nil, backend.Absent, 0); err != nil {
			t.Fatal(err)
		}
		if i%4 != 0 {
			continue
		}
		revision, err := servers[1].Put(t.Context(), fmt.Sprintf("/b/%d", i), nil, backend.Absent, 0)
		if err != nil || revision != i/4+1 {
			t.Fatalf("a write in the second schema is at %d, %v, want %d", revision, err, i/4+1)
		}
	}
}

// Where notifications do not arrive, servers see each other's writes all the
// same.
func TestWithoutNotifications(t *testing.T) {
	url := databases.Postgres(t) + "?notify=off"
	a, b := open(t, url), open(t, url)
	defer a.Close()
	defer b.Close()
	revision, err := a.Put(t.Context(), "/a", nil, backend.Absent, 0)
	if err != nil {
		t.Fatal(err)
	}
	for c, err := range b.Watch(t.Context(), "", 0) {
		if err != nil || c.Key != "/a" || c.Revision != revision {
			t.Errorf("watch: got %v, %v, want /a at %d", c, err, revision)
		}
		break
	}
}
