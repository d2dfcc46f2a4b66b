//go:build oracle

package authn_test

import (
	"os"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecordTokenWebhook writes what kube-apiserver asks a webhook about tokens, and what it makes of the answers, to testdata/webhook.json.
func TestRecordTokenWebhook(t *testing.T) {
	all := make(map[string][]tokenAnswer)
	for _, version := range []string{"v1", "v1beta1"} {
		h := newTokenHook(t)
		s := oracletest.Start(t, admins, "--authorization-mode", "RBAC", "--service-account-issuer", issuer, "--authentication-token-webhook-config-file", h.kubeconfig(t),
			"--authentication-token-webhook-version", version, "--authentication-token-webhook-cache-ttl", "1h")
		all[version] = askTokens(t, s.Client, s.Base, h)
		s.Stop(t)
	}
	if err := os.WriteFile("testdata/webhook.json", []byte(oracletest.Encode(t, all)), 0o600); err != nil {
		t.Fatal(err)
	}
}
