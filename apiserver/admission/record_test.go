//go:build oracle

package admission_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecordWrong writes what kube-apiserver says of the configurations to testdata/wrong.json.
func TestRecordWrong(t *testing.T) {
	dir, etcd, says := t.TempDir(), oracletest.Etcd(t), make(map[string]string)
	for _, w := range wrongs(t, dir) {
		flags := []string{"--authorization-mode", "RBAC"}
		if w.Enable != "" {
			flags = append(flags, "--enable-admission-plugins", w.Enable)
		}
		if w.File != "" {
			flags = append(flags, "--admission-control-config-file", w.File)
		}
		says[w.Name] = said(oracletest.Refusal(t, etcd, flags...), dir)
	}
	save(t, "testdata/wrong.json", oracletest.Encode(t, says))
}

// TestRecordAnswers writes what kube-apiserver answers to testdata/answers.json.
func TestRecordAnswers(t *testing.T) {
	h := &images{}
	hook := httptest.NewServer(h)
	t.Cleanup(hook.Close)
	s := oracletest.Start(t, users, "--authorization-mode", "RBAC", "--enable-admission-plugins", strings.Join(enabled, ","), "--disable-admission-plugins", disabled,
		"--admission-control-config-file", configuration(t, hook.URL))
	save(t, "testdata/answers.json", oracletest.Encode(t, ask(t, s.Client, s.Base, h)))
}
