package authn

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestAuthoritiesAreReadAnew: several authorities are good at once; one that is taken out of the file ends what it has vouched for, on
// connections that are open too; a file that has none in it is not taken.
func TestAuthoritiesAreReadAnew(t *testing.T) {
	old, next := newAuthority(t), newAuthority(t)
	eve, bob := old.client(t, "eve"), next.client(t, "bob")
	file := filepath.Join(t.TempDir(), "ca.crt")
	put := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(file+".new", data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	put(old.pem)
	list, err := OpenAuthorities(file)
	if err != nil {
		t.Fatal(err)
	}
	users, proxy := &certificates{authorities: list}, &FrontProxy{CAs: list}
	ctx := WithConnection(t.Context())
	check := func(when string, isEve, isBob bool) {
		t.Helper()
		list.after.Store(0) // it is time to look
		for range 2 {
			for _, c := range []struct {
				name string
				r    *http.Request
				want bool
			}{
				{"eve", requestWith(eve).WithContext(ctx), isEve}, {"eve anew", requestWith(eve), isEve}, {"bob", requestWith(bob), isBob},
			} {
				if _, ok, err := users.AuthenticateRequest(c.r); ok != c.want {
					t.Errorf("%s: %s is accepted: %t, want %t (%v)", when, c.name, ok, c.want, err)
				}
			}
			r := requestWith(eve)
			r.Header = http.Header{FrontProxyUser: {"jane"}}
			if _, ok, err := proxy.AuthenticateRequest(r); ok != isEve {
				t.Errorf("%s: eve as a proxy is accepted: %t, want %t (%v)", when, ok, isEve, err)
			}
		}
	}
	check("one authority", true, false)
	put(slices.Concat(old.pem, next.pem))
	check("two authorities", true, true)
	put([]byte("nothing"))
	check("none", true, true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	check("no file", true, true)
	put(next.pem)
	check("the other authority", false, true)
	if string(list.PEM()) != string(next.pem) {
		t.Errorf("got %s, want the file", list.PEM())
	}
}
