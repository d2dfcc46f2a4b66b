package debug

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/apiserver/version"
)

const (
	component = "apiserver"
	group     = "config.k8s.io"
)

// versions of the pages as objects. The older is deprecated.
var versions = []string{"v1beta1", "v1alpha1"}

// object is a page as an object of a kind.
type object struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
	Flags           map[string]string `json:"flags,omitempty"`
	*status         `json:",inline"`
}

// status says what the server is.
type status struct {
	StartTime        metav1.Time `json:"startTime"`
	UptimeSeconds    int64       `json:"uptimeSeconds"`
	GoVersion        string      `json:"goVersion"`
	BinaryVersion    string      `json:"binaryVersion"`
	EmulationVersion string      `json:"emulationVersion,omitempty"`
	Paths            []string    `json:"paths"`
}

// started is close to when the process began.
var started = time.Now()

// classified annotates flags whose values can have secrets in them.
const classified = "classified"

// Classify keeps the values of flags, which are there, to those who started the server.
func Classify(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if err := flags.SetAnnotation(name, classified, []string{"true"}); err != nil {
			panic(err) // the flag is not defined
		}
	}
}

func (c Config) flagz() (object, string) {
	shown, names := make(map[string]string), []string(nil)
	c.Flags.VisitAll(func(f *pflag.Flag) {
		if shown[f.Name] = f.Value.String(); len(f.Annotations[classified]) > 0 {
			shown[f.Name] = "CLASSIFIED"
		}
		names = append(names, f.Name)
	})
	var lines strings.Builder
	for _, name := range slices.Sorted(slices.Values(names)) {
		fmt.Fprintf(&lines, "%s=%s\n", name, shown[name])
	}
	return object{Flags: shown}, lines.String()
}

func (c Config) statusz() (object, string) {
	release := utilversion.MustParse(version.Kubernetes)
	up := time.Since(started)
	s := &status{
		StartTime: metav1.NewTime(started.Truncate(time.Second)), UptimeSeconds: int64(up.Seconds()), GoVersion: runtime.Version(),
		BinaryVersion: release.String(), EmulationVersion: fmt.Sprintf("%d.%d", release.Major(), release.Minor()), Paths: c.folders(),
	}
	hours, minutes, seconds := int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60
	return object{status: s}, fmt.Sprintf("\nStarted: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\nEmulation version: %s\nPaths: %s\n",
		s.StartTime.Format(time.UnixDate), hours, minutes, seconds, s.GoVersion, s.BinaryVersion, s.EmulationVersion, strings.Join(s.Paths, " "))
}

// folders are the first parts of the server's paths, but for those of the API.
func (c Config) folders() []string {
	found := make(map[string]bool)
	if c.Paths != nil {
		for _, path := range c.Paths() {
			folder, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
			if folder != "" && !slices.Contains([]string{"api", "apis", "openid", "openapi", ".well-known"}, folder) {
				found["/"+folder] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// page serves what make returns as text, or, for who asks for the kind in a version, as an object.
func page(kind string, make func() (object, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		form, release, ok := wanted(r.Header.Values("Accept"), kind)
		if !ok {
			rest.WriteError(w, r, codec.NotAcceptable("only the following media types are accepted: application/json, application/yaml, text/plain"))
			return
		}
		obj, text := make()
		if form == "text/plain" {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprintf(w, "\n%s %s\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n%s",
				component, strings.ToLower(kind), text)
			return
		}
		if release != versions[0] {
			w.Header().Set("Warning", fmt.Sprintf(`299 - "This version of the %s endpoint is deprecated. Please use a newer version."`, strings.ToLower(kind)))
		}
		obj.TypeMeta, obj.Metadata.Name = metav1.TypeMeta{Kind: kind, APIVersion: group + "/" + release}, component
		body, err := json.Marshal(obj)
		if err == nil && form == "application/yaml" {
			body, err = yaml.JSONToYAML(body)
		}
		if err != nil {
			rest.WriteError(w, r, apierrors.NewInternalError(err))
			return
		}
		w.Header().Set("Content-Type", fmt.Sprintf("%s;g=%s;v=%s;as=%s", form, group, release, kind))
		w.Write(body)
	}
}

// wanted is the first form of a page that a client accepts, and of an object the version.
func wanted(accept []string, kind string) (form, release string, ok bool) {
	if strings.TrimSpace(strings.Join(accept, "")) == "" {
		return "text/plain", "", true
	}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		form, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		switch form {
		case "text/plain", "text/*", "*/*":
			if params["as"] == "" {
				return "text/plain", "", true
			}
		case "application/json", "application/yaml":
			if params["as"] == kind && params["g"] == group && slices.Contains(versions, params["v"]) {
				return form, params["v"], true
			}
		}
	}
	return "", "", false
}
