package memory_test

import (
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

func TestContract(t *testing.T) {
	backendtest.Run(t, backendtest.Engine{Open: func(testing.TB) backend.Backend { return memory.New() }})
}
