//go:build oracle

package authz_test

import (
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecordRefusals writes what kube-apiserver says of the files to testdata/refusals.json.
func TestRecordRefusals(t *testing.T) {
	dir, etcd, says := t.TempDir(), oracletest.Etcd(t), make(map[string]string)
	for name, file := range refusals(t, dir) {
		says[name] = said(oracletest.Refusal(t, etcd, "--authorization-config", file), dir)
	}
	write(t, "testdata/refusals.json", oracletest.Encode(t, says))
}

// TestRecordWebhooks writes what kube-apiserver asks webhooks, and what it makes of their answers, to testdata/webhooks.json.
func TestRecordWebhooks(t *testing.T) {
	h := newHook(t)
	s := oracletest.Start(t, users, "--authorization-config", configuration(t, h))
	write(t, "testdata/webhooks.json", oracletest.Encode(t, ask(t, s.Client, s.Base, h)))
}
