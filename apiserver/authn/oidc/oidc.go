// Package oidc authenticates by tokens of identity providers, as an AuthenticationConfiguration or the --oidc-… flags name them:
// JSON Web Tokens whose claims say who somebody is (OpenID Connect). Providers are asked about themselves and for their keys in
// the background. A token is verified by what is known; only one that no known key has signed waits for an answer.
package oidc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/guard"
)

// Config says which issuers there are, by a file or by flags.
type Config struct {
	// File is an AuthenticationConfiguration of apiserver.config.k8s.io. New versions are taken while the server runs.
	File  string
	Flags Flags

	// Own are the issuers of this server's own tokens.
	Own []string
	// ServerID tells this server from others in metrics.
	ServerID string
	Metrics  prometheus.Registerer
	Log      *slog.Logger
	Times    Times

	// NoAnonymous is --anonymous-auth=false.
	NoAnonymous bool
	flags       *pflag.FlagSet
}

// Times are those of reloading. The zero value of a field is described with it.
type Times struct {
	Look   time.Duration // how often it is seen whether the file has changed; 0 means a minute
	Settle time.Duration // how long the issuers of a new version have to describe themselves; 0 means a minute
}

func (c Config) withDefaults() Config {
	c.Times.Look = cmp.Or(c.Times.Look, time.Minute)
	c.Times.Settle = cmp.Or(c.Times.Settle, time.Minute)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Authenticator knows the tokens of all issuers.
type Authenticator struct {
	config    Config
	metrics   *metrics
	anonymous apiserverv1.AnonymousAuthConfig
	now       atomic.Pointer[version]
	broken    string // the content of a file that never will be good
}

var _ authenticator.Token = (*Authenticator)(nil)

// Open reads the configuration. Run must be called for tokens to be accepted.
func Open(c Config) (*Authenticator, error) {
	a := &Authenticator{config: c.withDefaults(), metrics: newMetrics(c.Metrics, c.ServerID)}
	file, data, err := c.load()
	if err != nil {
		return nil, err
	}
	switch {
	case file.Anonymous != nil && c.changed("anonymous-auth"):
		return nil, field.Forbidden(field.NewPath("anonymous"), "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file")
	case file.Anonymous != nil:
		a.anonymous = *file.Anonymous
	default:
		a.anonymous.Enabled = !c.NoAnonymous
	}
	v, problems := a.open(file, data)
	if err := problems.ToAggregate(); err != nil {
		return nil, fmt.Errorf("invalid authentication configuration: %w", err)
	}
	a.now.Store(v)
	if c.File != "" {
		a.metrics.loaded(data)
	}
	return a, nil
}

// Anonymous says which requests may come from nobody.
func (a *Authenticator) Anonymous() apiserverv1.AnonymousAuthConfig { return a.anonymous }

// AuthenticateToken implements authenticator.Token. ok is false without an error for what is no token of an issuer.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	name, is := issuerOf(token)
	if !is {
		return nil, false, nil
	}
	i := a.now.Load().issuers[name]
	if i == nil {
		return nil, false, nil
	}
	start := time.Now()
	answer, err := i.authenticate(ctx, token, start)
	a.metrics.authenticated(name, time.Since(start), err)
	return answer, err == nil, err
}

// issuer is one whose tokens are accepted.
type issuer struct {
	*provider
	rules
	distributed *distributed // nil: no claim may be elsewhere
}

func (i *issuer) authenticate(ctx context.Context, token string, now time.Time) (*authenticator.Response, error) {
	c, err := i.verify(ctx, token, i.source.Issuer.Audiences, now)
	switch {
	case errors.Is(err, errNotAsked):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("oidc: verify token: %w", err)
	}
	if i.distributed != nil {
		if err := i.distributed.expand(ctx, c, now); err != nil {
			return nil, fmt.Errorf("oidc: could not expand distributed claims: %w", err)
		}
	}
	u, err := i.user(ctx, c)
	if err != nil {
		return nil, err
	}
	return &authenticator.Response{User: u}, nil
}

// version is what one version of the configuration says.
type version struct {
	data      string
	anonymous *apiserverv1.AnonymousAuthConfig
	issuers   map[string]*issuer // by what tokens call them
	end       context.CancelFunc // of what asks them; nil: nothing does
}

func (a *Authenticator) open(c *apiserverv1.AuthenticationConfiguration, data string) (*version, field.ErrorList) {
	all, problems := compile(c, a.config.Own)
	if len(problems) > 0 {
		return nil, problems
	}
	v := &version{data: data, anonymous: c.Anonymous, issuers: make(map[string]*issuer)}
	for _, r := range all {
		from := r.source.Issuer
		p := newProvider(from.URL, ptr.Deref(from.DiscoveryURL, ""), newClient(from.CertificateAuthority), a.config.algorithms())
		p.fetched = func(keys string, err error) { a.metrics.fetched(from.URL, keys, err) }
		i := &issuer{provider: p, rules: r}
		if claim := r.source.ClaimMappings.Groups.Claim; claim != "" {
			i.distributed = &distributed{claim: claim, audiences: from.Audiences, home: p, others: make(map[string]*provider)}
		}
		v.issuers[from.URL] = i
	}
	return v, nil
}

// run asks the issuers about themselves.
func (v *version) run(ctx context.Context, log *slog.Logger, running *guard.Group) {
	ctx, v.end = context.WithCancel(ctx)
	for _, i := range v.issuers {
		running.Go("token issuer", func() {
			if err := i.run(ctx, log); err != nil && ctx.Err() == nil {
				log.ErrorContext(ctx, "token issuer is not asked any more", "issuer", i.issuer, "error", err)
			}
		})
	}
}

// check is nil if all issuers have described themselves.
func (v *version) check() error {
	var problems []error
	for _, i := range v.issuers {
		if err := i.state.Load().err; err != nil {
			problems = append(problems, fmt.Errorf("oidc: authenticator for issuer %q is not healthy: %w", i.issuer, err))
		}
	}
	return errors.Join(problems...)
}

// Run asks issuers about themselves, and takes new versions of the file, until ctx ends.
func (a *Authenticator) Run(ctx context.Context) error {
	var running guard.Group
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.now.Load().run(ctx, a.config.Log, &running)
	if a.config.File == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	ticks := time.NewTicker(a.config.Times.Look)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
		if err := a.look(ctx, &running); err != nil && ctx.Err() == nil {
			a.metrics.reloadFailed()
			a.config.Log.ErrorContext(ctx, "authentication configuration is not taken; the one before stays in force", "file", a.config.File, "error", err)
		}
	}
}

// look takes the file if it has changed. A version that cannot ever be good is looked at once.
func (a *Authenticator) look(ctx context.Context, running *guard.Group) error {
	old := a.now.Load()
	content, err := read(a.config.File)
	data := string(content)
	if err != nil || data == old.data || data == a.broken {
		return err
	}
	next, err := a.next(content)
	if err != nil {
		a.broken = data
		return err
	}
	next.run(ctx, a.config.Log, running)
	if err := a.settle(ctx, next); err != nil {
		next.end()
		return err
	}
	a.broken = ""
	a.now.Store(next)
	old.end()
	a.metrics.reloaded(data, old.issuers, next.issuers)
	a.config.Log.InfoContext(ctx, "authentication configuration was read anew", "file", a.config.File)
	return nil
}

// next is what new content of the file says.
func (a *Authenticator) next(content []byte) (*version, error) {
	c, err := decode(content)
	if err != nil {
		return nil, err
	}
	v, problems := a.open(c, string(content))
	if !reflect.DeepEqual(c.Anonymous, a.now.Load().anonymous) {
		problems = append(problems, field.Forbidden(field.NewPath("anonymous"), "changed from initial configuration file"))
	}
	return v, problems.ToAggregate()
}

// settle waits until the issuers of v have described themselves.
func (a *Authenticator) settle(ctx context.Context, v *version) error {
	ctx, cancel := context.WithTimeout(ctx, a.config.Times.Settle)
	defer cancel()
	for {
		err := v.check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// load reads the file, or makes of the flags what a file would say. data is the content of the file.
func (c Config) load() (_ *apiserverv1.AuthenticationConfiguration, data string, err error) {
	if c.File == "" {
		made, err := c.fromFlags()
		return made, "", err
	}
	if c.changed(flagNames...) {
		return nil, "", errors.New("authentication-config file and oidc-* flags are mutually exclusive")
	}
	content, err := read(c.File)
	if err == nil {
		var file *apiserverv1.AuthenticationConfiguration
		if file, err = decode(content); err == nil {
			return file, string(content), nil
		}
	}
	return nil, "", fmt.Errorf("failed to load authentication configuration from file %q: %w", c.File, err)
}

// allAlgorithms are those that tokens may be signed with: neither none nor shared secrets.
var allAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.RS256, jose.RS384, jose.RS512}
