package etcd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend/etcd"
)

func TestParse(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, url string
		env       map[string]string
		want      string // what it says, or part of the error
	}{
		{name: "one", url: "etcd://a:1", want: "[http://a:1]"},
		{name: "several", url: "etcd://a:1,b,[::1]:3/", want: "[http://a:1 http://b:2379 http://[::1]:3]"},
		{name: "TLS", url: "etcd://a:1,b:2?tls=true", want: "[https://a:1 https://b:2] tls"},
		{name: "no TLS", url: "etcd://a:1?tls=false", want: "[http://a:1]"},
		{name: "user", url: "etcd://me:p%40ss%2Fw@a:1", want: "[http://a:1] me p@ss/w"},
		{name: "user of the environment", url: "etcd://a:1", env: map[string]string{"SKIFF_ETCD_USER": "me", "SKIFF_ETCD_PASSWORD": "x"}, want: "[http://a:1] me x"},
		{name: "the URL first", url: "etcd://you:y@a:1", env: map[string]string{"SKIFF_ETCD_USER": "me", "SKIFF_ETCD_PASSWORD": "x"}, want: "[http://a:1] you y"},
		{name: "no host", url: "etcd://", want: `host ""`},
		{name: "an empty host", url: "etcd://a:1,", want: `host ""`},
		{name: "IPv6 without brackets", url: "etcd://::1", want: "brackets"},
		{name: "port", url: "etcd://a:99999", want: `host "a:99999"`},
		{name: "path", url: "etcd://a:1/registry", want: "takes no path"},
		{name: "parameter", url: "etcd://a:1?sync=no", want: "parameter sync=no"},
		{name: "twice", url: "etcd://a:1?tls=true&tls=false", want: "there twice"},
		{name: "cert without key", url: "etcd://a:1?cert=" + garbage, want: "go together"},
		{name: "no file", url: "etcd://a:1?ca=" + dir + "/none", want: "no such file"},
		{name: "no certificate", url: "etcd://a:1?ca=" + garbage, want: "no certificate"},
		{name: "file of the environment", url: "etcd://a:1", env: map[string]string{"SKIFF_ETCD_CA": garbage}, want: "no certificate"},
		{name: "contradiction", url: "etcd://a:1?tls=false&ca=" + garbage, want: "tls=false"},
		{name: "another", url: "http://a:1", want: "etcd://"},
		{name: "password not escaped", url: "etcd://me:secret/x@a:1", want: "not escaped"},
		{name: "password badly escaped", url: "etcd://me:secret%zz@a:1", want: "not escaped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := etcd.Parse(c.url, func(name string) string { return c.env[name] })
			if err != nil {
				if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
					t.Errorf("got the error %q, want %q in it and no password", err, c.want)
				}
				return
			}
			said := fmt.Sprint(got.Endpoints)
			if got.TLS != nil {
				said += " tls"
			}
			if got.User != "" {
				said += fmt.Sprintf(" %s %s", got.User, got.Password)
			}
			if said != c.want {
				t.Errorf("got %s, want %s", said, c.want)
			}
		})
	}
}

// FuzzParse: whatever is there, an endpoint is a URL of a host, or there is an error.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"etcd://a:1,b:2", "etcd://u:p@[::1]?tls=true", "etcd://@,/?#"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		c, err := etcd.Parse(address, func(string) string { return "" })
		if err == nil && len(c.Endpoints) == 0 {
			t.Errorf("%q: no endpoints and no error", address)
		}
	})
}
