package etcd_test

import (
	"sync"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
)

func TestContract(t *testing.T) {
	var mu sync.Mutex
	members := make(map[testing.TB]*member)
	backendtest.Run(t, backendtest.Engine{Durable: true, Open: func(t testing.TB) backend.Backend {
		mu.Lock()
		defer mu.Unlock()
		if members[t] == nil {
			members[t] = cluster(t, 1)[0]
		}
		return open(t, members[t])
	}})
}
