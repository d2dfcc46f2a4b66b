package encryption

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

func TestMain(m *testing.M) {
	kmstest.Main()
	os.Exit(m.Run())
}
