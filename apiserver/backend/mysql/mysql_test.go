package mysql_test

import (
	"sync"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/mysql"
)

func TestContract(t *testing.T) {
	var urls sync.Map // of each test, so that it can open its database again
	backendtest.Run(t, backendtest.Engine{Durable: true, Open: func(t testing.TB) backend.Backend {
		url, ok := urls.Load(t.Name())
		if !ok {
			url = databases.MariaDB(t)
			urls.Store(t.Name(), url)
		}
		return open(t, url.(string))
	}})
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
