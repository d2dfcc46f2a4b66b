//go:build oracle

package audit_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecord writes what kube-apiserver writes down of the requests to testdata/events.json.
func TestRecord(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	server := oracletest.Start(t, tokens, "--authorization-mode", "Node,RBAC", "--audit-policy-file", "testdata/policy.yaml", "--audit-log-path", log)
	all := requests(t)
	send(t, server.Client, server.Base, all)
	server.Stop(t)
	var made []recorded
	for n, got := range events(t, log, len(all)) {
		made = append(made, recorded{all[n].String(), got})
	}
	if err := os.WriteFile("testdata/events.json", encode(t, made), 0o600); err != nil {
		t.Fatal(err)
	}
}

func encode(t *testing.T, all []recorded) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	out.WriteString("[\n")
	for n, one := range all {
		if n > 0 {
			out.WriteString(",")
		}
		if err := e.Encode(one); err != nil {
			t.Fatal(err)
		}
	}
	out.WriteString("]\n")
	return out.Bytes()
}
