package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// maxFile bounds what is read of a file, in bytes: far above any real one, far below what could hurt.
const maxFile = 1 << 20

// Load reads the file and applies the environment and those flags of overrides (may be nil) that were given and
// are named like a key: --log-level is log.level. The error is Errors unless the file cannot be read at all.
func Load(path string, overrides *pflag.FlagSet) (*Config, error) {
	return load(path, overrides, files{dir: filepath.Dir(path)})
}

// LoadWithoutSecrets is Load for a process that may not read the files of passwords and keys, such as the speaker,
// which gets the passwords from the agent: every Password stays empty, and Etcd.TLS nil.
func LoadWithoutSecrets(path string, overrides *pflag.FlagSet) (*Config, error) {
	return load(path, overrides, files{unread: true})
}

// Parse is Load of text that is to be the file at path: names in it are relative to that one's directory.
func Parse(path string, text []byte, overrides *pflag.FlagSet) (*Config, error) {
	if len(text) > maxFile {
		return nil, errTooLarge(path)
	}
	return parse(path, text, overrides, files{dir: filepath.Dir(path)})
}

func errTooLarge(path string) error {
	return fmt.Errorf("configuration file %s is larger than 1 MiB", path)
}

func load(path string, overrides *pflag.FlagSet, f files) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parse(path, data, overrides, f)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("configuration file: %w (name another with --config)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if len(data) > maxFile {
		return nil, errTooLarge(path)
	}
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil
}

// parse is Load without the reading of the file itself.
func parse(path string, data []byte, overrides *pflag.FlagSet, f files) (*Config, error) {
	r := newReport()
	tree, ok := readTree(filepath.Base(path), data, r)
	if !ok {
		return nil, r.err()
	}
	l, err := newLayers(tree, overrides)
	if err != nil {
		return nil, err
	}
	d := &draft{}
	d.setScalars(l, r)
	d.setLists(l, r, f)
	d.setEtcd(l, r, f)
	d.setOTLP(l, r, f)
	d.check(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return d.config(), nil
}

// layers answers what a key is set to, and by what, over flags, environment, file and defaults. Every scalar in
// it is text: as YAML numbers, 65000.10 would be 65000.1, another AS, and 010 would be 8.
type layers struct {
	viper  *viper.Viper
	source map[string]string // of keys that neither file nor default decide
}

func newLayers(tree map[string]any, overrides *pflag.FlagSet) (*layers, error) {
	l := &layers{viper: viper.New(), source: map[string]string{}}
	if err := l.viper.MergeConfigMap(tree); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for _, f := range fields {
		l.viper.SetDefault(f.key, f.value)
		if err := l.bind(f.key, overrides); err != nil {
			return nil, fmt.Errorf("configuration key %s: %w", f.key, err)
		}
	}
	return l, nil
}

func (l *layers) bind(key string, overrides *pflag.FlagSet) error {
	name := EnvName(key)
	if value := os.Getenv(name); value != "" && !isServiceLink(value) {
		if err := l.viper.BindEnv(key, name); err != nil {
			return err
		}
		l.source[key] = name
	}
	if overrides == nil {
		return nil
	}
	flag := overrides.Lookup(FlagName(key))
	if flag == nil || !flag.Changed {
		return nil
	}
	l.source[key] = "--" + flag.Name
	return l.viper.BindPFlag(key, flag)
}

// isServiceLink recognises what Kubernetes sets for every service of the namespace: a service called
// hostfabric-bgp makes HOSTFABRIC_BGP_PORT=tcp://10.96.0.7:179, which nobody meant for bgp.port.
func isServiceLink(value string) bool {
	for _, scheme := range []string{"tcp://", "udp://", "sctp://"} {
		if strings.HasPrefix(value, scheme) {
			return true
		}
	}
	return false
}

// EnvName is the environment variable that overrides a key. An empty variable counts as absent.
func EnvName(key string) string {
	return "HOSTFABRIC_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// FlagName is the flag that overrides a key, if the command has it.
func FlagName(key string) string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(key)
}

// Keys are the keys that environment and flags can override, with their defaults as the file would have them.
func Keys() map[string]string {
	keys := make(map[string]string, len(fields))
	for _, f := range fields {
		keys[f.key] = f.value
	}
	return keys
}
