package apiserver_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

// scripted is a server that a script is put to.
type scripted struct {
	t      *testing.T
	change func(*apiserver.Options)
	server *apiserver.Server
}

func (s *scripted) Restart() {
	if s.server != nil {
		s.server.Close()
	}
	s.server = apiservertest.Start(s.t, s.change)
}

func (s *scripted) Do(method, path, body string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "https://in-process"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	a, err := apiservertest.Config(s.server, "admin").Transport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Body.Close()
	answer, err := io.ReadAll(a.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return a.StatusCode, string(answer)
}

// While the plugin that has the key for secrets is away, clients and operators
// get the answers that kube-apiserver gives, but that a server that starts without
// it says which object it cannot read, and lives.
func TestOutageOfPlugin(t *testing.T) {
	plugin := kmstest.New(t)
	b := memory.New()
	defer b.Close()
	c := encryption.Config{
		File: encryptionFile(t, "secrets", kmsProvider(plugin, "1s")),
		// The plugin is asked when a check is; an answer that a call got which was
		// under way when the plugin went is not kept.
		Times: encryption.Times{Poll: time.Hour, Retry: 50 * time.Millisecond, Well: time.Millisecond, Ill: time.Millisecond},
	}
	s := &scripted{t: t, change: func(o *apiserver.Options) { o.Backend, o.Encryption = kept{b}, c }}
	s.Restart()
	script := kmstest.ReadScript(t, "encryption/testdata/outage.txt")
	if got := kmstest.RunScript(t, script, kmstest.Skiff, plugin, s); got != script {
		t.Errorf("got\n%s", got)
	}
}
