package mysql

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/skiff-k8s/skiff/apiserver/backend/relational"
)

// ErrURL: the URL is malformed. What is wrong is not said, as it may be a
// password that is not escaped.
var ErrURL = errors.New("malformed URL, want mysql://user:password@host:port/database with special characters of the parts as %XX")

const connectTimeout = 5 * time.Second

// parse makes the driver's configuration of a URL.
func parse(address string) (*mysql.Config, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, ErrURL
	}
	name, found := strings.CutPrefix(u.Path, "/")
	if !found || name == "" || strings.ContainsAny(name, "/@") || u.Fragment != "" {
		return nil, ErrURL
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, ErrURL
	}
	for parameter := range values {
		if !slices.Contains([]string{"tls", "ca", "cert", "key", "socket"}, parameter) {
			return nil, errors.New("storage URL: parameters of mysql:// are tls, ca, cert, key and socket")
		}
	}
	c := mysql.NewConfig()
	c.User = u.User.Username()
	c.Passwd, _ = u.User.Password()
	c.DBName = name
	c.Net, c.Addr = "tcp", net.JoinHostPort(cmp.Or(u.Hostname(), "127.0.0.1"), cmp.Or(u.Port(), "3306"))
	if socket := values.Get("socket"); socket != "" {
		c.Net, c.Addr = "unix", socket
	}
	c.InterpolateParams = true // a statement is one message
	c.Timeout = connectTimeout
	c.Logger = &mysql.NopLogger{} // errors are returned
	c.DialFunc = relational.Dial
	return c, secure(c, u.Hostname(), values)
}

// secure sets what a URL says of TLS.
func secure(c *mysql.Config, host string, values url.Values) error {
	c.TLSConfig = values.Get("tls")
	if !slices.Contains([]string{"", "true", "false", "preferred", "skip-verify"}, c.TLSConfig) {
		return errors.New("storage URL: tls can be true, preferred, skip-verify or false")
	}
	ca, cert := values.Get("ca"), values.Get("cert")
	if ca == "" && cert == "" {
		return nil
	}
	if c.TLSConfig != "" && c.TLSConfig != "true" {
		return errors.New("storage URL: ca and cert go with tls=true")
	}
	c.TLSConfig, c.TLS = "", &tls.Config{ServerName: host}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("storage URL: ca: %w", err)
		}
		c.TLS.RootCAs = x509.NewCertPool()
		if !c.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("storage URL: ca: no certificate in %s", ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, values.Get("key"))
		if err != nil {
			return fmt.Errorf("storage URL: cert and key: %w", err)
		}
		c.TLS.Certificates = []tls.Certificate{pair}
	}
	return nil
}
