//go:build oracle

package rest_test

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecordVersions writes what kube-apiserver answers to odd resourceVersions to testdata/versions.json.
func TestRecordVersions(t *testing.T) {
	s := oracletest.Start(t, asAdmin, "--authorization-mode", "RBAC")
	if err := os.WriteFile("testdata/versions.json", []byte(oracletest.Encode(t, askVersions(t, s.Client, s.Base))), 0o600); err != nil {
		t.Fatal(err)
	}
}
