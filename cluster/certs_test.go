package cluster

import (
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// begin makes the certificates of a cluster as its start does, at a time.
func begin(t *testing.T, c Config, at time.Time) *run {
	t.Helper()
	r := &run{Config: c, addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	var err error
	if r.pki, err = OpenPKI(pkiFolder(c)); err != nil {
		t.Fatal(err)
	}
	if r.proxies, err = r.pki.FrontProxy(); err != nil {
		t.Fatal(err)
	}
	r.pki.now = func() time.Time { return at }
	r.proxies.now = r.pki.now
	if _, err := r.pki.Server(servingFile, "kube-apiserver", "localhost", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.proxies.Client(frontProxy, frontProxy); err != nil {
		t.Fatal(err)
	}
	if err := r.writeKubeconfigs(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.pki.Key(tokenKeyFile); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCertificatesAfterYears: a cluster whose certificates have ended while it did not run starts again with new ones, and so does one
// whose certificates are renewed by hand. Keys are readable by their owner alone, before and after.
func TestCertificatesAfterYears(t *testing.T) {
	c := Config{DataDir: t.TempDir(), Listen: netip.MustParseAddrPort("127.0.0.1:6443"), Log: slog.New(slog.DiscardHandler)}
	past := time.Now().Add(-2 * 365 * 24 * time.Hour)
	begin(t, c, past)
	checkModes(t, c)
	names := []string{"admin", "apiserver", "front-proxy/front-proxy-client"}
	if got := ended(t, c); !slices.Equal(got, names) {
		t.Fatalf("after two years these have ended: %q, want %q", got, names)
	}
	begin(t, c, time.Now())
	if got := ended(t, c); got != nil {
		t.Errorf("after a start these have ended: %q", got)
	}
	checkModes(t, c)

	other := Config{DataDir: t.TempDir(), Listen: c.Listen, Log: c.Log}
	begin(t, other, past)
	if got, err := RenewCertificates(other, "admin"); err != nil || !slices.Equal(got, []string{"admin"}) {
		t.Errorf("renewed %q, %v, want admin", got, err)
	}
	if got := ended(t, other); !slices.Equal(got, names[1:]) {
		t.Errorf("these have ended: %q, want %q", got, names[1:])
	}
	if _, err := RenewCertificates(other); err != nil {
		t.Fatal(err)
	}
	if got := ended(t, other); got != nil {
		t.Errorf("after all were renewed these have ended: %q", got)
	}
	checkModes(t, other)
	for _, name := range []string{"ca", "../x", "nothing"} {
		if got, err := RenewCertificates(other, name); err == nil {
			t.Errorf("%s: renewed %q", name, got)
		}
	}
	// A start keeps what was renewed, and the kubeconfig has it.
	before := file(t, filepath.Join(pkiFolder(other), "admin.crt"))
	r := begin(t, other, time.Now())
	config, err := clientcmd.BuildConfigFromFlags("", r.adminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if after := file(t, filepath.Join(pkiFolder(other), "admin.crt")); after != before || string(config.CertData) != before {
		t.Error("the start has made the certificate anew, or the kubeconfig has another")
	}
}

func ended(t *testing.T, c Config) (names []string) {
	t.Helper()
	all, err := Certificates(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if one.Ends.Before(time.Now()) {
			names = append(names, one.Name)
		}
	}
	return names
}

func file(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func checkModes(t *testing.T, c Config) {
	t.Helper()
	err := filepath.WalkDir(pkiFolder(c), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := map[string]fs.FileMode{".key": 0o600, ".crt": 0o644}[filepath.Ext(path)]
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
