package route

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// compiled is one Ingress by itself.
type compiled struct {
	key       Key
	created   time.Time
	hosts     map[string]*share
	fallback  *Location // defaultBackend
	everyHost bool      // fallback is for hosts of nobody too: the Ingress has no rules
	problems  []string
	services  []Key
	secrets   []Key
}

// share is what one Ingress says about one host.
type share struct {
	locations   []*Location
	fallback    *Location
	certificate *tls.Certificate
	www         bool
	alias       bool
}

// secretGetter finds a Secret; nil if there is none.
type secretGetter func(Key) *corev1.Secret

func compile(ing *networkingv1.Ingress, secret secretGetter, pool func(Backend) *Pool) *compiled {
	c := &compiled{
		key: Key{Namespace: ing.Namespace, Name: ing.Name}, created: ing.CreationTimestamp.Time,
		hosts: make(map[string]*share),
	}
	settings, problems := ParseSettings(ing.Annotations)
	c.problems = problems
	c.users(settings, secret)
	if b := ing.Spec.DefaultBackend; b != nil {
		if backend, ok := c.backend(b, "spec.defaultBackend"); ok {
			c.fallback = &Location{Ingress: c.key, Path: "/", Settings: settings, Backend: backend, Pool: pool(backend), kind: stem}
			c.everyHost = len(ing.Spec.Rules) == 0
		}
	}
	for i, rule := range ing.Spec.Rules {
		name := strings.ToLower(rule.Host)
		s := c.share(name, settings)
		s.fallback = c.fallback
		if rule.HTTP == nil {
			continue
		}
		for j, path := range rule.HTTP.Paths {
			backend, ok := c.backend(&path.Backend, fmt.Sprintf("spec.rules[%d].http.paths[%d].backend", i, j))
			if !ok {
				continue
			}
			l, err := newLocation(path, settings)
			if err != nil {
				c.problems = append(c.problems, fmt.Sprintf("path %s of host %q is not served: %v", path.Path, rule.Host, err))
				continue
			}
			l.Ingress, l.Host, l.Backend, l.Pool = c.key, name, backend, pool(backend)
			s.locations = append(s.locations, l)
		}
	}
	c.secure(ing, secret)
	c.aliases(settings)
	return c
}

func (c *compiled) share(name string, settings *Settings) *share {
	s := c.hosts[name]
	if s == nil {
		s = &share{www: settings.WWW && name != "" && !strings.HasPrefix(name, "*.")}
		c.hosts[name] = s
	}
	return s
}

func (c *compiled) backend(b *networkingv1.IngressBackend, where string) (Backend, bool) {
	if b.Service == nil {
		c.problems = append(c.problems, fmt.Sprintf("%s is a resource; only backends that are Services are served", where))
		return Backend{}, false
	}
	key := Key{Namespace: c.key.Namespace, Name: b.Service.Name}
	if !slices.Contains(c.services, key) {
		c.services = append(c.services, key)
	}
	return Backend{Service: key, PortName: b.Service.Port.Name, Port: b.Service.Port.Number}, true
}

func newLocation(path networkingv1.HTTPIngressPath, settings *Settings) (*Location, error) {
	l := &Location{Path: path.Path, Settings: settings, kind: stem}
	if l.Path == "" {
		l.Path = "/"
	}
	switch t := value(path.PathType); {
	case t == networkingv1.PathTypeExact:
		l.kind = exact
	case settings.UseRegex || settings.RewriteTarget != "":
		l.kind = expression
	case t == networkingv1.PathTypePrefix:
		l.kind = folder
	}
	if l.kind != expression {
		return l, nil
	}
	pattern, err := compilePattern("(?i)^", l.Path)
	l.pattern = pattern
	return l, err
}

// users reads the Secret of basic authentication. Without it nothing is served.
func (c *compiled) users(s *Settings, secret secretGetter) {
	if s.authType == "" {
		return
	}
	users, err := c.readUsers(s, secret)
	if err != nil {
		s.Closed = fmt.Sprintf("annotation %sauth-secret: %v; the Ingress serves nothing until it is there", Prefix, err)
		c.problems = append(c.problems, s.Closed)
		return
	}
	s.Auth = &Auth{Realm: s.realm, Users: users}
}

func (c *compiled) readUsers(s *Settings, secret secretGetter) (Users, error) {
	namespace, name, qualified := strings.Cut(s.authSecret, "/")
	if !qualified {
		namespace, name = c.key.Namespace, s.authSecret
	}
	if namespace != c.key.Namespace {
		return nil, fmt.Errorf("Secrets of other namespaces, as %s, are not read", s.authSecret)
	}
	found := c.secret(name, secret)
	if found == nil {
		return nil, fmt.Errorf("there is no Secret %q", name)
	}
	return usersOf(found, s.authKeyStyle)
}

// secret finds a Secret of the Ingress' namespace and remembers that the Ingress depends on it.
func (c *compiled) secret(name string, secret secretGetter) *corev1.Secret {
	key := Key{Namespace: c.key.Namespace, Name: name}
	if !slices.Contains(c.secrets, key) {
		c.secrets = append(c.secrets, key)
	}
	return secret(key)
}

// secure gives hosts their certificates.
func (c *compiled) secure(ing *networkingv1.Ingress, secret secretGetter) {
	for _, t := range ing.Spec.TLS {
		var pair *tls.Certificate
		var err error
		if t.SecretName != "" {
			if pair, err = certificate(c.secret(t.SecretName, secret)); err != nil {
				c.problems = append(c.problems, fmt.Sprintf("the certificate of Secret %q is not shown, the default one is: %v", t.SecretName, err))
			}
		}
		names := t.Hosts
		if len(names) == 0 {
			for name := range c.hosts {
				names = append(names, name)
			}
			slices.Sort(names)
		}
		for _, name := range names {
			c.secureHost(strings.ToLower(name), t.SecretName, pair)
		}
	}
}

func (c *compiled) secureHost(name, secretName string, pair *tls.Certificate) {
	s := c.hosts[name]
	if s == nil {
		return
	}
	for _, l := range s.locations {
		l.Secured = true
	}
	if pair == nil || s.certificate != nil || name == "" {
		return
	}
	if err := pair.Leaf.VerifyHostname(strings.Replace(name, "*.", "any.", 1)); err != nil {
		c.problems = append(c.problems, fmt.Sprintf("the certificate of Secret %q is not shown for host %q, the default one is: %v", secretName, name, err))
		return
	}
	s.certificate = pair
}

func certificate(secret *corev1.Secret) (*tls.Certificate, error) {
	if secret == nil {
		return nil, errors.New("there is no such Secret")
	}
	certPEM, keyPEM := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	switch {
	case len(certPEM) == 0:
		return nil, fmt.Errorf("it has no %s", corev1.TLSCertKey)
	case len(keyPEM) == 0:
		return nil, fmt.Errorf("it has no %s", corev1.TLSPrivateKeyKey)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

// aliases give the paths of all hosts of the Ingress further names.
func (c *compiled) aliases(settings *Settings) {
	if len(settings.Aliases) == 0 {
		return
	}
	var names []string
	for name := range c.hosts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, alias := range settings.Aliases {
		if _, own := c.hosts[alias]; own {
			continue
		}
		of := &share{alias: true}
		for _, name := range names {
			s := c.hosts[name]
			of.locations = append(of.locations, s.locations...)
			of.fallback = s.fallback
			if of.certificate == nil && s.certificate != nil && s.certificate.Leaf.VerifyHostname(strings.Replace(alias, "*.", "any.", 1)) == nil {
				of.certificate = s.certificate
			}
		}
		c.hosts[alias] = of
	}
}
