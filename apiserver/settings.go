package apiserver

import (
	"cmp"
	"errors"
	"os"
	"slices"

	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/audit"
	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/authn/oidc"
	"github.com/skiff-k8s/skiff/apiserver/authz"
	"github.com/skiff-k8s/skiff/apiserver/debug"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/apiserver/features"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// Settings are what those who run a server choose by kube-apiserver's flags, be it alone or part of a cluster. The zero value
// of each is its default.
type Settings struct {
	// Encryption is how objects are encrypted in the backend. Its Metrics, Log and
	// ServerID are the server's. Without a File they are not.
	Encryption encryption.Config
	// ServiceAccountIssuers name who makes the tokens of service accounts. The first stands in new ones, those of all are accepted.
	ServiceAccountIssuers []string
	// ServiceAccountKeyFiles have keys, in PEM, public or private, several in one if need be, that verify such tokens too.
	ServiceAccountKeyFiles []string
	// BootstrapTokens lets machines that join authenticate by Secrets of kube-system.
	BootstrapTokens bool
	// Issuers are others whose tokens are accepted. Its Own, ServerID, Metrics and Log are the server's.
	Issuers oidc.Config
	// TokenWebhook is asked about tokens that nobody else knows. Its Audiences and Log are the server's.
	TokenWebhook authn.WebhookConfig
	// Audiences are those of this server: what tokens must be for to be accepted. None means the issuers.
	Audiences []string
	// Audit says what is written down of requests, and where. Its Metrics and Log are the server's.
	Audit audit.Config
	// Authorization says who decides what users may do. Its NodeRules, ServerID, Metrics and Log are the server's.
	Authorization authz.Config
	// Admission is which plugins have a say besides those that always do.
	Admission admission.Choice
	// Features are what of Kubernetes' API is served.
	Features features.Config
	// Tracing is where is told what becomes of requests. Its ServerID and Log are the server's.
	Tracing tracing.Config
	// Limits are what clients may ask of the server.
	Limits Limits
	// Debug is what those who run the server may see and change of it. Its Paths are the server's.
	Debug debug.Config
}

// AddFlags adds the flags of s, which are kube-apiserver's, but that of the log level.
func (s *Settings) AddFlags(flags *pflag.FlagSet) {
	s.Encryption.AddFlags(flags)
	flags.StringArrayVar(&s.ServiceAccountKeyFiles, "service-account-key-file", nil, "keys that verify service account tokens, besides the one that signs them; may be given several times")
	flags.StringArrayVar(&s.ServiceAccountIssuers, "service-account-issuer", nil, "issuer of service account tokens (default: https://kubernetes.default.svc and the domain of the cluster); if given several times, the first signs, and all are accepted")
	flags.BoolVar(&s.BootstrapTokens, "enable-bootstrap-token-auth", false, "let machines that join authenticate by bootstrap tokens, which are Secrets of kube-system")
	s.Issuers.AddFlags(flags)
	s.TokenWebhook.AddFlags(flags)
	flags.StringSliceVar(&s.Audiences, "api-audiences", nil, "audiences of the API: what tokens must be for; the issuer of service account tokens if empty")
	s.Audit.AddFlags(flags)
	s.Authorization.AddFlags(flags)
	s.Limits.AddFlags(flags)
	s.Debug.AddFlags(flags)
	s.Admission.AddFlags(flags)
	s.Features.AddFlags(flags)
	s.Tracing.AddFlags(flags)
}

// issuers are those of service account tokens: of the settings, or what the options say without them.
func (o Options) issuers() ([]string, error) {
	if slices.Contains(o.ServiceAccountIssuers, "") {
		return nil, errors.New("service-account-issuer should not be an empty string")
	}
	if len(o.ServiceAccountIssuers) > 0 {
		return o.ServiceAccountIssuers, nil
	}
	return []string{cmp.Or(o.Issuer, "https://kubernetes.default.svc.cluster.local")}, nil
}

// tokenKeys are those that verify service account tokens besides the one that signs, in PEM.
func (o Options) tokenKeys() ([][]byte, error) {
	var keys [][]byte
	for _, name := range o.ServiceAccountKeyFiles {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, data)
	}
	return keys, nil
}
