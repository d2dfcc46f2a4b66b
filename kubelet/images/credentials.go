package images

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// login is an entry of a Docker configuration file.
type login struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	Email         string `json:"email"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credentials are those of the pull secrets that fit the image, the most specific first. Secrets of
// other types are ignored, as the real kubelet does.
func credentials(secrets []*v1.Secret, image Name) ([]credential, error) {
	var matches []credential
	for _, s := range secrets {
		logins, err := logins(s)
		if err != nil {
			return nil, fmt.Errorf("read pull secret %s/%s: %w", s.Namespace, s.Name, err)
		}
		for registry, l := range logins {
			pattern := registryPattern(registry)
			if !fits(pattern, image) {
				continue
			}
			auth, err := l.auth(registry)
			if err != nil {
				return nil, fmt.Errorf("read pull secret %s/%s: %w", s.Namespace, s.Name, err)
			}
			matches = append(matches, credential{auth: auth, pattern: pattern, secret: kubeletconfig.ImagePullSecret{
				UID: string(s.UID), Namespace: s.Namespace, Name: s.Name, CredentialHash: hashOf(auth, l.Email),
			}})
		}
	}
	slices.SortStableFunc(matches, func(a, b credential) int { return strings.Compare(b.pattern, a.pattern) })
	return matches, nil
}

// credential is what a pull secret has for an image.
type credential struct {
	auth    *cri.AuthConfig
	pattern string
	secret  kubeletconfig.ImagePullSecret
}

// hashOf is upstream's hash of a credential, so that records of either kubelet are understood by the other.
func hashOf(auth *cri.AuthConfig, email string) string {
	data, err := json.Marshal(struct {
		Username      string `json:"username,omitempty"`
		Password      string `json:"password,omitempty"`
		Email         string `json:"email,omitempty"`
		IdentityToken string `json:"identitytoken,omitempty"`
		RegistryToken string `json:"registrytoken,omitempty"`
	}{auth.Username, auth.Password, email, auth.IdentityToken, auth.RegistryToken})
	if err != nil {
		return "" // which equals no other
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

func logins(s *v1.Secret) (map[string]login, error) {
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		var file struct {
			Auths map[string]login `json:"auths"`
		}
		err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &file)
		return file.Auths, err
	case v1.SecretTypeDockercfg:
		var logins map[string]login
		err := json.Unmarshal(s.Data[v1.DockerConfigKey], &logins)
		return logins, err
	}
	return nil, nil
}

func (l login) auth(registry string) (*cri.AuthConfig, error) {
	if l.Auth != "" {
		raw, err := base64.StdEncoding.DecodeString(l.Auth)
		if err != nil {
			// Some tools write it without padding.
			raw, err = base64.RawStdEncoding.DecodeString(l.Auth)
		}
		if err != nil {
			return nil, fmt.Errorf("decode auth of %s: %w", registry, err)
		}
		user, password, found := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if !found {
			return nil, fmt.Errorf("auth of %s is not user:password", registry)
		}
		l.Username, l.Password = user, password
	}
	return &cri.AuthConfig{
		Username: l.Username, Password: l.Password,
		IdentityToken: l.IdentityToken, RegistryToken: l.RegistryToken,
	}, nil
}

// registryPattern takes a configuration's key ("https://index.docker.io/v1/", "*.example.com/team") to
// host and path.
func registryPattern(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, rest, _ := strings.Cut(key, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	rest = strings.Trim(rest, "/")
	if rest == "" || rest == "v1" || rest == "v2" || strings.HasPrefix(rest, "v1/") || strings.HasPrefix(rest, "v2/") {
		return host
	}
	return host + "/" + rest
}

// fits says whether the pattern's host equals the image's, "*" standing for (part of) one label, and
// its path is a prefix of the image's path.
func fits(pattern string, image Name) bool {
	host, prefix, _ := strings.Cut(pattern, "/")
	if !strings.HasPrefix(image.Path, prefix) {
		return false
	}
	wantLabels, haveLabels := strings.Split(host, "."), strings.Split(image.Domain, ".")
	if len(wantLabels) != len(haveLabels) {
		return false
	}
	for i := range wantLabels {
		if ok, err := path.Match(wantLabels[i], haveLabels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
