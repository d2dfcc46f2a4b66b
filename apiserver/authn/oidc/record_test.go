//go:build oracle

package oidc_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecord writes what kube-apiserver says of the tokens to testdata/answers.json.
func TestRecord(t *testing.T) {
	p, dir := newProvider(t), t.TempDir()
	file := write(t, filepath.Join(dir, "config.yaml"), configuration(p))
	users := map[string]*user.DefaultInfo{
		"admin": {Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}, admin: {Name: "admin", Groups: []string{user.SystemPrivilegedGroup}},
	}
	server := oracletest.Start(t, users, "--authorization-mode", "Node,RBAC", "--service-account-issuer", own, "--authentication-config", file)
	all := ask(t, client{server.Client, server.Base}, p)
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
	write(t, "testdata/answers.json", out.String())
}

// TestRecordRefusals writes what kube-apiserver says of files and flags that are not good to testdata/refusals.json.
func TestRecordRefusals(t *testing.T) {
	dir, etcd := t.TempDir(), oracletest.Etcd(t)
	refuses := func(args ...string) string {
		return strings.ReplaceAll(oracletest.Refusal(t, etcd, append([]string{"--service-account-issuer", own}, args...)...), dir, "/dir")
	}
	said := refusals{Files: make(map[string]string), Flags: make(map[string]string)}
	for name, file := range refused {
		said.Files[name] = refuses("--authentication-config=" + write(t, filepath.Join(dir, "config.yaml"), file))
	}
	for name, args := range flagsRefused {
		said.Flags[name] = refuses(withFile(t, dir, args)...)
	}
	data, err := json.MarshalIndent(said, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	write(t, "testdata/refusals.json", string(data)+"\n")
}
