//go:build oracle

package debug_test

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecord writes what kube-apiserver answers to testdata/answers.json.
func TestRecord(t *testing.T) {
	s := oracletest.Start(t, users, "--authorization-mode", "RBAC")
	answers := oracletest.Encode(t, ask(t, s.Client, s.Base))
	if err := os.WriteFile("testdata/answers.json", []byte(answers), 0o600); err != nil {
		t.Fatal(err)
	}
}
