package mysql_test

import (
	"database/sql"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/mysql"
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
			b, err := mysql.Open(url)
			if err != nil {
				return nil, err
			}
			return b, nil
		},
		Database: databases.MariaDB,
		Server:   func(t testing.TB) relationaltest.Server { return databases.NewMariaDB(t) },
		Execute:  execute,
		Size:     size,
		Purge:    purge,
	})
}

// size is how many bytes the tables have on disk.
func size(t testing.TB, url string) (bytes int64) {
	t.Helper()
	execute(t, url, "ANALYZE TABLE skiff_writes")
	db := connect(t, url)
	defer db.Close()
	if err := db.QueryRow("SELECT SUM(data_length + index_length + data_free) FROM information_schema.tables WHERE table_schema = database()").Scan(&bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// purge waits for the thread that takes back the room of deleted rows, which comes after transactions at its own pace. What
// other tests leave to it on the same server counts too, so that there is an end to the waiting.
func purge(t testing.TB, url string) {
	t.Helper()
	db := connect(t, url)
	defer db.Close()
	const few = 100
	var name string
	left := few
	for deadline := time.Now().Add(time.Minute); left >= few && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := db.QueryRow("SHOW GLOBAL STATUS LIKE 'Innodb_history_list_length'").Scan(&name, &left); err != nil {
			t.Fatal(err)
		}
	}
}

// own is the URL of the database of a test.
var own = databases.OfTest(databases.MariaDB)

// cut ends all connections to a database.
func cut(t testing.TB, url string) {
	t.Helper()
	db := connect(t, url)
	defer db.Close()
	rows, err := db.Query("SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()")
	if err != nil {
		t.Error(err)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			t.Error(err)
		}
		_, _ = db.Exec(fmt.Sprint("KILL ", id)) // it may have ended by itself
	}
}

func execute(t testing.TB, url, statement string) {
	t.Helper()
	db := connect(t, url)
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Error(err)
	}
}

func connect(t testing.TB, address string) *sql.DB {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("mysql", fmt.Sprintf("%s@tcp(%s)%s", u.User, u.Host, u.Path))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func BenchmarkPut(b *testing.B)    { backendtest.BenchmarkPut(b, openNew) }
func BenchmarkUpdate(b *testing.B) { backendtest.BenchmarkUpdate(b, openNew) }

func openNew(t testing.TB) backend.Backend { return open(t, databases.MariaDB(t)) }

func open(t testing.TB, url string) backend.Backend {
	t.Helper()
	b, err := mysql.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
