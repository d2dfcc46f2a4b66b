package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Config of Open.
type Config struct {
	Endpoints      []string // as URLs
	TLS            *tls.Config
	User, Password string
}

// Variables of the environment that stand for parameters which a URL does not have.
var variables = map[string]string{"ca": "SKIFF_ETCD_CA", "cert": "SKIFF_ETCD_CERT", "key": "SKIFF_ETCD_KEY"}

const (
	userVariable     = "SKIFF_ETCD_USER"
	passwordVariable = "SKIFF_ETCD_PASSWORD"
	defaultPort      = "2379"
)

// Parse reads a URL:
//
//	etcd://user:password@host:port,host:port?ca=FILE&cert=FILE&key=FILE&tls=true
//
// The members are spoken to over TLS if a file is named or tls is true; without ca they must be known to the system.
// getenv is asked for what the URL does not say. Errors do not repeat the password.
func Parse(address string, getenv func(string) string) (Config, error) {
	authority, query, err := cut(address)
	if err != nil {
		return Config{}, fmt.Errorf("storage URL: %w", err)
	}
	c := Config{User: getenv(userVariable), Password: getenv(passwordVariable)}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		if c.User, c.Password, err = credentials(authority[:i]); err != nil {
			return Config{}, err
		}
		authority = authority[i+1:]
	}
	for name := range variables {
		if !query.Has(name) && getenv(variables[name]) != "" {
			query.Set(name, getenv(variables[name]))
		}
	}
	if c.TLS, err = tlsOf(query); err != nil {
		return Config{}, fmt.Errorf("storage URL of etcd: %w", err)
	}
	for host := range strings.SplitSeq(authority, ",") {
		endpoint, err := endpoint(host, c.TLS != nil)
		if err != nil {
			return Config{}, fmt.Errorf("storage URL of etcd: %w", err)
		}
		c.Endpoints = append(c.Endpoints, endpoint)
	}
	return c, nil
}

// cut divides a URL. url.Parse knows no lists of hosts.
func cut(address string) (authority string, query url.Values, err error) {
	rest, ok := strings.CutPrefix(address, "etcd://")
	if !ok {
		return "", nil, errors.New("must begin with etcd://")
	}
	authority, rest = rest, ""
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, rest = authority[:i], authority[i:]
	}
	if strings.Contains(rest, "@") && !strings.Contains(authority, "@") {
		return "", nil, errors.New("user or password is not escaped as in a URL")
	}
	u, err := url.Parse(rest)
	if err != nil {
		return "", nil, err
	}
	if u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return "", nil, errors.New("etcd:// takes no path: keys are where those of every cluster are")
	}
	query, err = url.ParseQuery(u.RawQuery)
	return authority, query, err
}

func credentials(userinfo string) (user, password string, err error) {
	user, password, _ = strings.Cut(userinfo, ":")
	for _, part := range []*string{&user, &password} {
		if *part, err = url.PathUnescape(*part); err != nil {
			return "", "", errors.New("storage URL of etcd: user or password is not escaped as in a URL")
		}
	}
	return user, password, nil
}

func endpoint(host string, secure bool) (string, error) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), defaultPort
		if strings.Contains(name, ":") && !strings.HasPrefix(host, "[") {
			return "", fmt.Errorf("host %q: an IPv6 address stands in brackets", host)
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || name == "" {
		return "", fmt.Errorf("host %q: want host:port,host:port", host)
	}
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(name, port), nil
}

// tlsOf is the configuration that parameters ask for; nil: none. It fails for parameters that it does not know.
func tlsOf(query url.Values) (*tls.Config, error) {
	secure := len(query) > 0
	for name, values := range query {
		switch {
		case len(values) > 1:
			return nil, fmt.Errorf("parameter %s is there twice", name)
		case name == "tls" && (values[0] == "true" || values[0] == "false"):
		case variables[name] == "":
			return nil, fmt.Errorf("parameter %s=%s: known are ca, cert, key and tls=true", name, values[0])
		}
	}
	if query.Get("tls") == "false" {
		if len(query) > 1 {
			return nil, errors.New("tls=false, but a certificate is named")
		}
		secure = false
	}
	if !secure {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca := query.Get("ca"); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", ca)
		}
	}
	return c, client(c, query.Get("cert"), query.Get("key"))
}

// client makes c show the certificate in a file, read anew for each connection so that it can be renewed.
func client(c *tls.Config, cert, key string) error {
	if (cert == "") != (key == "") {
		return errors.New("cert and key go together")
	}
	if cert == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		return err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		return &pair, err
	}
	return nil
}
